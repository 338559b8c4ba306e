// Enqueues pictures and follows them: one subscription for each.
const { relay: url } = await (await fetch("/settings")).json();
const { RelayClient } = await import(`${url.replace(/^ws/, "http")}/relay-client.js`);
const relay = new RelayClient(`${url}/ws/tasks`);

const ENDED = new Set(["completed", "failed", "cancelled"]);

function show(item, state) {
  item.querySelector("strong").textContent = state.title ?? "Picture";
  item.querySelector("progress").value = state.progress ?? 0;
  item.querySelector("span").textContent = [state.status, state.error ?? state.message].filter(Boolean).join(": ");
  item.querySelector("button").hidden = ENDED.has(state.status);
}

function follow(taskId) {
  const item = document.querySelector("template").content.firstElementChild.cloneNode(true);
  item.querySelector("button").addEventListener("click", () => fetch(`/pictures/${taskId}`, { method: "DELETE" }));
  document.querySelector("ul").prepend(item);
  const stop = relay.task(taskId).onUpdate(({ state }) => {
    show(item, state);
    if (ENDED.has(state.status)) stop();
  });
}

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const query = new URLSearchParams(new FormData(event.target));
  const answer = await fetch(`/pictures?${query}`, { method: "POST" });
  follow((await answer.json()).task_id);
});
