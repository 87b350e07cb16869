"use strict";
// Values under the pointer or, with the arrow keys, at a step; and arms that can be hidden. The page is whole without it.
(() => {
  const frame = JSON.parse(document.getElementById("frame").textContent);
  const hidden = new Set();
  for (const box of document.querySelectorAll(".legend input")) {
    const apply = () => {
      if (box.checked) hidden.delete(box.value); else hidden.add(box.value);
      for (const part of document.querySelectorAll(`.plot [data-arm="${box.value}"]`)) part.classList.toggle("off", !box.checked);
    };
    box.addEventListener("change", apply);
    apply();
  }
  for (const plot of document.querySelectorAll(".plot[data-lines]")) {
    const lines = JSON.parse(plot.dataset.lines);
    const steps = [...new Set(lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
    let tip = null, rule = null, at = -1;
    const hide = () => { tip?.remove(); rule?.remove(); tip = rule = null; at = -1; };
    const show = (index) => {
      const shown = lines.filter((line) => !hidden.has(String(line.arm)) && line.steps.includes(steps[index]));
      hide();
      at = index;
      if (!shown.length) return;
      tip = document.createElement("div");
      tip.className = "tip";
      const head = document.createElement("div");
      head.textContent = `step ${steps[index]}`;
      tip.append(head);
      let x = 0;
      for (const line of shown) {
        const i = line.steps.indexOf(steps[index]);
        x += line.x[i] / shown.length;
        const row = document.createElement("div");
        row.className = `arm-${line.arm % 8}`;
        const name = document.createElement("b");
        name.textContent = line.name;
        row.append(name, ` ${line.values[i]}`);
        tip.append(row);
      }
      const ratio = plot.clientWidth / frame.width;
      rule = document.createElement("div");
      rule.className = "rule";
      rule.style.left = `${x * ratio}px`;
      rule.style.top = `${frame.top * ratio}px`;
      rule.style.height = `${(frame.bottom - frame.top) * ratio}px`;
      plot.append(rule, tip);
      const left = x * ratio + 10;
      tip.style.left = `${left + tip.offsetWidth > plot.clientWidth ? Math.max(0, x * ratio - tip.offsetWidth - 10) : left}px`;
      tip.style.top = `${frame.top * ratio}px`;
    };
    const place = (step) => {
      const line = lines.find((one) => one.steps.includes(step));
      return line.x[line.steps.indexOf(step)];
    };
    plot.addEventListener("pointermove", (event) => {
      const x = (event.clientX - plot.getBoundingClientRect().left) * frame.width / plot.clientWidth;
      let best = 0;
      for (let i = 1; i < steps.length; i++) if (Math.abs(place(steps[i]) - x) < Math.abs(place(steps[best]) - x)) best = i;
      if (best !== at) show(best);
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move) { event.preventDefault(); show(Math.min(steps.length - 1, Math.max(0, at + move))); }
      if (event.key === "Escape") hide();
    });
  }
})();
