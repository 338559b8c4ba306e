// The looks of the elements. Every colour and measure is a custom property that a page may set.

const CSS = `
:host {
  --_accent: var(--relay-accent, light-dark(#3451d1, #8ea2ff));
  --_success: var(--relay-success, light-dark(#1a7f4b, #4cc38a));
  --_danger: var(--relay-danger, light-dark(#c2292e, #ff8b8b));
  --_warning: var(--relay-warning, light-dark(#935b00, #f5b83d));
  --_text: var(--relay-text, light-dark(#1c2024, #edeef0));
  --_muted: var(--relay-muted, light-dark(#5a626b, #a3abb5));
  --_track: var(--relay-track, light-dark(#e2e5ea, #343a42));
  --_radius: var(--relay-radius, 999px);
  --_height: var(--relay-bar-height, 8px);
  --_tone: var(--_muted);
  display: block;
  color: var(--_text);
  font: var(--relay-font, 14px/1.45 system-ui, sans-serif);
}
:host([hidden]) { display: none; }
* { box-sizing: border-box; }
.base { display: grid; gap: 6px; min-width: 0; }
.base[data-tone="active"] { --_tone: var(--_accent); }
.base[data-tone="success"] { --_tone: var(--_success); }
.base[data-tone="danger"] { --_tone: var(--_danger); }
.base[data-tone="stalled"] { --_tone: var(--_warning); }
.row { display: flex; gap: 12px; align-items: baseline; justify-content: space-between; min-width: 0; }
.title { font-weight: 600; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; unicode-bidi: plaintext; }
.status { color: var(--_tone); font-weight: 600; white-space: nowrap; font-variant-numeric: tabular-nums; }
.bar { position: relative; height: var(--_height); border-radius: var(--_radius); background: var(--_track); overflow: hidden; }
.fill { position: absolute; inset: 0; border-radius: inherit; background: var(--_tone); transform: translateX(calc(-1 * var(--_rest, 100%))); transition: transform 240ms ease-out; }
:host(:dir(rtl)) .fill { transform: translateX(var(--_rest, 100%)); }
.bar[data-unknown] .fill { --_rest: 0% !important; opacity: .55; background: repeating-linear-gradient(-45deg, var(--_tone) 0 8px, transparent 8px 16px); }
.detail, .eta, .connection { color: var(--_muted); font-size: .93em; }
.detail { min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; unicode-bidi: plaintext; }
.base[data-tone="danger"] .detail { color: var(--_danger); }
.eta { white-space: nowrap; font-variant-numeric: tabular-nums; }
.connection::before { content: "●"; margin-inline-end: .4em; color: var(--_warning); }
.connection:empty { display: none; }
.visually-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.list { display: grid; gap: 18px; margin: 0; padding: 0; list-style: none; }
.note { color: var(--_muted); }
.note:empty { display: none; }
@media (prefers-reduced-motion: reduce) { .fill { transition: none; } }
@media (forced-colors: active) { .bar { border: 1px solid CanvasText; } .fill { background: Highlight; forced-color-adjust: none; } }
`;

let sheet: CSSStyleSheet | null = null;

/** Give a shadow root the common style sheet: no inline style, which a Content-Security-Policy may forbid. */
export function addStyles(root: ShadowRoot): void {
  if (sheet === null) {
    sheet = new CSSStyleSheet();
    sheet.replaceSync(CSS);
  }
  root.adoptedStyleSheets = [sheet];
}
