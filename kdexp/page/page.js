"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const said = document.getElementById("said");
  document.querySelectorAll("table.data").forEach((table) => { sortable(table); choosable(table); });

  function sortable(table) {
    const body = table.tBodies[0], original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const first = head.classList.contains("right") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = { [first]: second, [second]: null }[head.ariaSort] ?? (head.ariaSort === second ? null : first);
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      const rows = [...original];
      if (order) {
        head.setAttribute("aria-sort", order);
        const keys = new Map(rows.map((row) => [row, worth(row.cells[column].textContent)]));
        rows.sort((a, b) => compare(keys.get(a), keys.get(b), order === "ascending" ? 1 : -1));
      }
      body.append(...rows);
    }));
  }

  // A cell as a number if it begins with one, as seconds if it is a duration, else as text; null if it is empty.
  function worth(text) {
    const plain = text.trim().replaceAll(",", "").replaceAll("−", "-");
    if (plain === "" || plain === "–") return null;
    if (plain === "∞") return Infinity;
    const time = /^(?:(\d+)h)?(?:(\d+)m)?(?:([\d.]+)s)?$/.exec(plain);
    if (time) return 3600 * (time[1] ?? 0) + 60 * (time[2] ?? 0) + +(time[3] ?? 0);
    const number = /^[+-]?\d*\.?\d+(?:e[+-]?\d+)?(?=$|\s|×)/.exec(plain);
    return number ? +number[0] : plain;
  }

  // Empty cells come last in either direction.
  function compare(a, b, direction) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return a === b ? 0 : direction * (a < b ? -1 : 1);
    return direction * String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  // Checkboxes above a table. Columns that don't fit the screen are left out at first, but not on paper.
  function choosable(table) {
    const heads = [...table.tHead.rows[0].cells], frame = table.parentElement;
    const hidden = new Map(), style = document.head.appendChild(document.createElement("style"));
    const apply = () => {
      style.textContent = [...hidden].map(([column, where]) =>
        `@media ${where} { #${table.id} tr > :nth-child(${column + 1}) { display: none; } }`).join("\n");
    };
    const boxes = heads.slice(1).map((head, number) => {
      const label = document.createElement("label"), box = label.appendChild(document.createElement("input"));
      box.type = "checkbox";
      box.checked = true;
      label.append(` ${head.textContent}`);
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(number + 1); else hidden.set(number + 1, "all");
        apply();
      });
      return label;
    });
    const choice = document.createElement("details");
    choice.className = "columns";
    choice.append(document.createElement("summary"), ...boxes);
    frame.before(choice);
    const ranked = (rank) => heads.map((head, column) => column).filter((column) => heads[column].dataset.rank === rank);
    const spare = [...ranked("2"), ...ranked("1")];
    const count = () => {
      const shown = boxes.filter((label) => label.firstElementChild.checked).length;
      const which = shown < boxes.length ? `${shown} of ${boxes.length} columns are shown: choose` : "Choose columns";
      choice.firstElementChild.textContent = which;
    };
    choice.addEventListener("change", count);
    const widths = heads.map((head) => head.offsetWidth);
    for (let excess = table.offsetWidth - frame.clientWidth; excess > 0 && spare.length;) {
      const column = spare.pop();
      excess -= widths[column];
      hidden.set(column, "screen");
      boxes[column - 1].firstElementChild.checked = false;
    }
    apply();
    count();
  }

  // A table that is wider than the screen fades out at the edge behind which there is more of it.
  const fade = (frame) => {
    frame.classList.toggle("more", frame.scrollWidth - frame.clientWidth - frame.scrollLeft > 1);
  };
  const frames = [...document.querySelectorAll(".wide")], sizes = new ResizeObserver(() => frames.forEach(fade));
  frames.forEach((frame) => {
    frame.addEventListener("scroll", () => fade(frame), { passive: true });
    [frame, frame.firstElementChild].forEach((each) => sizes.observe(each));
  });

  // Paper shows what the columns mean.
  const meanings = document.querySelectorAll("details.meanings:not([open])");
  addEventListener("beforeprint", () => meanings.forEach((each) => { each.open = true; }));
  addEventListener("afterprint", () => meanings.forEach((each) => { each.open = false; }));

  // Copying. A page from a disk may lack the clipboard, but not the older command.
  function copy(element) {
    const text = element.dataset.copy ?? element.textContent;
    const done = () => {
      element.classList.add("done");
      said.textContent = "copied";
      setTimeout(() => { element.classList.remove("done"); said.textContent = ""; }, 1500);
    };
    (navigator.clipboard?.writeText(text) ?? Promise.reject()).catch(() => {
      const area = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: text }));
      area.select();
      const copied = document.execCommand("copy");
      area.remove();
      return copied ? undefined : Promise.reject();
    }).then(done, () => { said.textContent = "can't copy here: select the command instead"; });
  }
  const copied = ".copy, code.command";
  document.querySelectorAll("code.command").forEach((code) => { code.tabIndex = 0; code.title = "click to copy"; });
  document.addEventListener("click", (event) => {
    const element = event.target.closest(copied);
    if (element) copy(element);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("code.command")) copy(event.target);
    if (event.key === "Escape") tip.hidden = true;
  });

  // The numbers behind a mark or a cell, where the pointer is or a finger taps.
  const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
  document.addEventListener("pointerover", (event) => {
    const told = event.target.closest("[data-tip]");
    tip.hidden = !told;
    if (!told) return;
    tip.textContent = told.dataset.tip;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18, above = event.clientY - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below + tip.offsetHeight > innerHeight ? Math.max(8, above) : below}px`;
  });

  // A link to a row's details opens them.
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.matches("details")) target.open = true;
  };
  addEventListener("hashchange", open);
  open();
})();
