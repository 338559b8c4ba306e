"""A service that works on tasks which others ask for over Redis, and tells of them."""

import asyncio
from typing import Any

from tests.integration.client.publishing.services.former_redis_service import redis_service


async def work(message: dict[str, Any]) -> None:
    """Do what was asked for."""
    task_id = message["task_id"]
    info = {"task_id": task_id, "status": "pending", "tier": message["tier"]}
    await redis_service.publish_general_update({"type": "task_created", "task_info": info})
    await redis_service.publish_task_update(task_id, {"status": "in_progress", "stage": "started", "progress": 0})
    for progress in (25, 50, 75):
        await redis_service.publish_task_update(task_id, {"progress": progress, "message": f"at {progress} %"})
    await redis_service.publish_task_update(task_id, {"status": "completed", "progress": 100})


async def main() -> None:
    redis_service.subscribe_to_channel("work_requests", work)
    await redis_service.start_listening()


asyncio.run(main())
