"""Jobs of Celery and RQ workers that report on a task with the plain client."""
