"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const touch = matchMedia("(pointer: coarse)");

  function template() {
    const style = getComputedStyle(document.documentElement);
    const [ink, line, paper] = ["--ink", "--line", "--tint"].map((n) => style.getPropertyValue(n).trim());
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, automargin: true };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: ink, family: "system-ui, sans-serif", size: narrow.matches ? 12 : 13 },
        hoverlabel: { bgcolor: paper, font: { color: ink } },
        xaxis: axis,
        yaxis: axis,
        dragmode: touch.matches ? false : "zoom",
      },
    };
  }

  function draw(chart) {
    if (chart.dataset.drawn || !chart.offsetParent) return;
    chart.dataset.drawn = "yes";
    const { data, layout } = JSON.parse(document.getElementById(chart.id + "-data").textContent);
    Plotly.newPlot(chart, data, { ...layout, template: template() }, {
      responsive: true,
      displaylogo: false,
      displayModeBar: touch.matches ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    });
  }

  const charts = () => document.querySelectorAll(".chart");
  const restyle = () => {
    for (const chart of charts()) {
      if (chart.dataset.drawn) Plotly.relayout(chart, { template: template() });
    }
  };
  const show = (list) => {
    for (const option of list.options) {
      document.getElementById(option.value).hidden = !option.selected;
    }
    charts().forEach(draw);
  };

  for (const list of document.querySelectorAll(".choice select")) {
    list.addEventListener("change", () => show(list));
  }
  for (const part of document.querySelectorAll(".find")) {
    const typed = part.querySelector("input");
    typed.addEventListener("input", () => {
      const wanted = typed.value.trim().toLowerCase();
      const rows = [...part.querySelectorAll("tbody tr")];
      for (const row of rows) {
        row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      }
      const left = rows.filter((row) => !row.hidden).length;
      part.querySelector("[role=status]").textContent = wanted ? `${left} of ${rows.length}` : "";
    });
  }
  dark.addEventListener("change", restyle);
  narrow.addEventListener("change", restyle);
  charts().forEach(draw);
})();
