// What is shown, in the address: it can be shared, and the back button works.

export interface UrlState {
  /** A filter of `filters.ts`. */
  readonly show: string;
  readonly search: string;
  /** The id of the task that is looked at. */
  readonly task: string | null;
}

export function read(search = location.search): UrlState {
  const query = new URLSearchParams(search);
  return { show: query.get("show") ?? "all", search: query.get("q") ?? "", task: query.get("task") };
}

export function address({ show, search, task }: UrlState): string {
  const query = new URLSearchParams();
  if (show !== "all") query.set("show", show);
  if (search !== "") query.set("q", search);
  if (task !== null) query.set("task", task);
  const text = query.toString();
  return text === "" ? location.pathname : `${location.pathname}?${text}`;
}
