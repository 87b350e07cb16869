"use strict";
// Colours, numbers under the pointer, and the arrow keys. The text itself is in the page already.
(() => {
  const { responses, columns, modes } = JSON.parse(document.getElementById("numbers").textContent);
  const STEPS = 7;
  const boxes = [...document.querySelectorAll(".tokens")].map((box) => ({ box, spans: [...box.querySelectorAll("span[data-i]")] }));
  const show = (value) => value === null ? "–" : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4));
  const shade = (value, mode) => {
    if (value === null || value === 0) return "";
    const share = mode.signed ? Math.abs(value) / mode.high : (value - mode.low) / (mode.high - mode.low);
    const step = Math.min(STEPS, Math.ceil(share * STEPS));
    return step < 1 ? "" : (mode.signed && value < 0 ? "n" : "p") + step;
  };
  const ramp = document.querySelector(".ramp");
  const about = document.querySelector(".about");
  const colour = (name) => {
    const mode = modes[name];
    for (const button of document.querySelectorAll(".modes button[data-mode]")) button.setAttribute("aria-pressed", String(button.dataset.mode === name));
    boxes.forEach(({ spans }, r) => {
      const values = mode ? responses[r][name] : null;
      for (const span of spans) {
        const kind = values ? shade(values[span.dataset.i], mode) : "";
        span.className = span.dataset.kind ? `${kind} ${span.dataset.kind}`.trim() : kind;
      }
    });
    ramp.replaceChildren();
    about.textContent = mode ? mode.about : "No colours.";
    if (!mode) return;
    const scale = document.createElement("span");
    scale.className = "boxes";
    const kinds = mode.signed ? [7, 6, 5, 4, 3, 2, 1].map((k) => `n${k}`).concat("") : [""];
    for (const kind of kinds.concat([1, 2, 3, 4, 5, 6, 7].map((k) => `p${k}`))) {
      const cell = document.createElement("i");
      cell.className = kind;
      scale.append(cell);
    }
    ramp.append(show(mode.signed ? -mode.high : mode.low), scale, show(mode.high));
  };
  for (const button of document.querySelectorAll(".modes button[data-mode]")) button.addEventListener("click", () => colour(button.dataset.mode));
  const marks = document.getElementById("marks");
  marks?.addEventListener("click", () => {
    const on = document.body.classList.toggle("pivots");
    marks.setAttribute("aria-pressed", String(on));
  });

  let tip = null, at = null;
  const hide = () => { tip?.remove(); at?.classList.remove("at"); tip = at = null; };
  const tell = (span, r) => {
    hide();
    at = span;
    span.classList.add("at");
    const i = Number(span.dataset.i);
    tip = document.createElement("div");
    tip.className = "tip";
    tip.setAttribute("role", "status");
    const name = document.createElement("code");
    name.textContent = span.textContent.replace("\n", "");
    const list = document.createElement("dl");
    const row = (term, value) => {
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = term;
      dd.textContent = value;
      list.append(dt, dd);
    };
    row("token", `${i + 1} of ${responses[r].token_ids.length}, id ${responses[r].token_ids[i]}`);
    for (const [key, label] of columns) if (responses[r][key]) row(label, show(responses[r][key][i]));
    if (span.dataset.kind?.includes("top")) row("pivot", "yes, top fifth");
    else if (span.dataset.kind?.includes("pivot")) row("pivot", "yes");
    tip.append(name, list);
    document.body.append(tip);
    const place = span.getClientRects()[0], width = document.documentElement.clientWidth;
    const below = place.bottom + 8 + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(6, Math.min(place.left, width - tip.offsetWidth - 6))}px`;
    tip.style.top = `${below ? place.bottom + 8 : Math.max(6, place.top - tip.offsetHeight - 8)}px`;
  };
  boxes.forEach(({ box, spans }, r) => {
    box.addEventListener("pointerover", (event) => {
      const span = event.target.closest("span[data-i]");
      if (span && span !== at) tell(span, r);
    });
    box.addEventListener("pointerleave", hide);
    box.addEventListener("blur", hide);
    box.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide();
      if (!move || !spans.length) return;
      event.preventDefault();
      const next = spans[Math.min(spans.length - 1, Math.max(0, (at && box.contains(at) ? Number(at.dataset.i) : -1) + move))];
      next.scrollIntoView({ block: "nearest" });
      tell(next, r);
    });
  });
  addEventListener("scroll", () => { if (at && !at.parentElement.matches(":focus")) hide(); }, { passive: true });
  colour(Object.keys(modes)[0] ?? "none");
})();
