"use strict";
// The page is whole without this: here are the slider, the money, sorting and searching.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  document.documentElement.classList.add("js");

  const whole = (n) => n.toLocaleString("en-US", { maximumFractionDigits: 0 });
  const sign = (text) => text.replace("-", "\u2212");
  const percent = (share) => {
    if (!Number.isFinite(share)) return "\u2013";
    if (share === 0 || share === 1) return `${share * 100} %`;
    return `${(share * 100).toFixed(Math.abs(share) < 0.01 ? 2 : 1)} %`;
  };
  const plus = (by, text) => (by > 0 ? "+" : "") + text;
  const usd = (n) => sign(n.toLocaleString("en-US", { maximumFractionDigits: 0 }));

  // Counts at one threshold; ratios are NaN where there is nothing to divide by.
  function counts(view, at) {
    const last = view.stopped.length - 1;
    const stopped = view.stopped[at], caught = view.bad[at];
    const rows = view.stopped[last], bad = view.bad[last];
    return {
      threshold: view.thresholds[at], stopped, caught, rows,
      falseAlarms: stopped - caught, missed: bad - caught,
      passed: rows - bad - (stopped - caught),
      precision: caught / stopped, recall: caught / bad,
      friction: (stopped - caught) / (rows - bad), alarmRate: stopped / rows,
    };
  }

  function money(view, at, costs) {
    const last = view.stopped.length - 1;
    const passed = view.volume[last] - view.volume[at];
    const badPassed = view.bad_volume[last] - view.bad_volume[at];
    const losses = costs.loss * badPassed;
    return {
      revenue: costs.fee * (passed - badPassed) - losses - costs.stop * view.stopped[at],
      rate: passed > 0 ? 1e4 * losses / passed : 0,
      friction: counts(view, at).friction,
    };
  }

  function moveMarks(section, view, at) {
    const now = counts(view, at);
    const at_ = {
      gain: [now.stopped / now.rows, now.recall],
      roc: [now.friction, now.recall],
      precision: [now.recall, at === 0 ? view.bad[1] / view.stopped[1] : now.precision],
      histogram: [now.threshold ?? Infinity, 0],
    };
    for (const chart of section.querySelectorAll("[data-chart]")) {
      const [xLow, xHigh, yLow, yHigh] = chart.dataset.limits.split(" ").map(Number);
      const [left, right, foot, top] = chart.dataset.box.split(" ").map(Number);
      const [x, y] = at_[chart.dataset.chart];
      const share = Math.min(1, Math.max(0, (x - xLow) / (xHigh - xLow)));
      const px = left + share * (right - left);
      const mark = chart.querySelector(".here");
      if (mark.tagName === "circle") {
        mark.setAttribute("cx", px);
        mark.setAttribute("cy", foot - (y - yLow) / (yHigh - yLow) * (foot - top));
      } else {
        mark.setAttribute("x1", px);
        mark.setAttribute("x2", px);
      }
    }
  }

  function wireThreshold(section, view) {
    const slider = section.querySelector("input[type=range]");
    const show = (name, text) => {
      for (const place of section.querySelectorAll(`[data-read="${name}"]`)) place.textContent = text;
    };
    const assumed = (name) => Number(section.querySelector(`[data-assume="${name}"]`).value) || 0;
    const costs = () => ({ fee: assumed("fee") / 100, loss: assumed("loss") / 100, stop: assumed("stop") });

    function update() {
      const at = Number(slider.value), now = counts(view, at);
      const threshold = now.threshold === null ? "nothing" : String(Number(now.threshold.toPrecision(4)));
      slider.setAttribute("aria-valuetext", threshold);
      show("threshold", threshold);
      for (const name of ["caught", "missed", "falseAlarms", "passed"]) show(name, whole(now[name]));
      for (const name of ["precision", "recall", "friction", "alarmRate"]) show(name, percent(now[name]));
      moveMarks(section, view, at);
      if (view.has_amount) updateMoney(at);
    }

    function updateMoney(at) {
      const before = money(view, 0, costs()), after = money(view, at, costs());
      show("revenueBefore", usd(before.revenue));
      show("revenueAfter", usd(after.revenue));
      const won = after.revenue - before.revenue;
      show("revenueChange", plus(won, usd(won)));
      show("rateBefore", before.rate.toFixed(1));
      show("rateAfter", after.rate.toFixed(1));
      const rise = after.rate - before.rate;
      show("rateChange", plus(rise, sign(rise.toFixed(1))));
      show("frictionBefore", percent(before.friction));
      show("frictionAfter", percent(after.friction));
      show("frictionChange", plus(after.friction, percent(after.friction)));
    }

    slider.addEventListener("input", update);
    for (const input of section.querySelectorAll("[data-assume]")) input.addEventListener("input", update);
    section.querySelector("button.earn")?.addEventListener("click", () => {
      const assumedNow = costs();
      const revenue = view.stopped.map((_, at) => money(view, at, assumedNow).revenue);
      slider.value = revenue.indexOf(Math.max(...revenue));
      update();
    });
    update();
  }

  function wireCases(section) {
    const table = section.querySelector(".cases table");
    if (!table) return;
    const body = table.tBodies[0], rows = [...body.rows];
    const stories = [...section.querySelectorAll(".story")];

    function open(row) {
      for (const other of rows) other.classList.toggle("shown", other === row);
      for (const story of stories) story.classList.toggle("shown", story.id === row.dataset.story);
    }
    for (const row of rows) {
      row.addEventListener("click", (event) => { event.preventDefault(); open(row); });
    }
    open(rows[0]);

    for (const head of table.tHead.rows[0].cells) {
      head.querySelector("button")?.addEventListener("click", () => {
        const falling = head.getAttribute("aria-sort") !== "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const key = (row) => row.cells[head.cellIndex].dataset.sort ?? row.cells[head.cellIndex].textContent;
        const order = new Intl.Collator("en", { numeric: true });
        const compare = (a, b) => {
          const x = Number(key(a)), y = Number(key(b));
          return Number.isNaN(x) || Number.isNaN(y) ? order.compare(key(a), key(b)) : x - y;
        };
        rows.sort((a, b) => (falling ? -compare(a, b) : compare(a, b)));
        body.append(...rows);
      });
    }
    section.querySelector("input[type=search]").addEventListener("input", (event) => {
      const wanted = event.target.value.toLowerCase();
      for (const row of rows) row.hidden = !row.dataset.text.toLowerCase().includes(wanted);
    });
  }

  const sections = [...document.querySelectorAll("section.view")];
  sections.forEach((section, place) => {
    if (data.views[place]) wireThreshold(section, data.views[place]);
    wireCases(section);
  });
  const picker = document.getElementById("class");
  if (picker) {
    const pick = () => sections.forEach((section, place) => { section.hidden = place !== picker.selectedIndex; });
    picker.addEventListener("change", pick);
    pick();
  }
})();
