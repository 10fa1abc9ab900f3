"use strict";
const specs = JSON.parse(document.getElementById("charts").textContent);
const look = {
  font: "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif",
  axis: { labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", gridColor: "#eceef1", domainColor: "#8b929a", tickColor: "#8b929a" },
  legend: { labelFontSize: 12 },
  view: { stroke: null },
};
for (const element of document.querySelectorAll("[data-chart]")) {
  const spec = { ...specs[element.dataset.chart], config: look, background: null };
  vegaEmbed(element, spec, { renderer: "svg", actions: false }).then(
    () => element.setAttribute("data-drawn", ""),
    (error) => { element.textContent = `This chart could not be drawn: ${error.message}`; },
  );
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));

const player = document.querySelector(".player");
if (player) {
  const [button, slider, shown] = ["button", "input", "output"].map((name) => player.querySelector(name));
  const rollouts = [...player.querySelectorAll(".rollout")];
  const select = player.querySelector("select");
  let current = rollouts[0], playing = true;
  const leads = () => JSON.parse(current.dataset.leads);
  const show = (number) => {
    slider.value = number;
    shown.textContent = leads()[number];
    for (const image of current.querySelectorAll(".frame img")) image.style.top = `${-100 * number}%`;
  };
  const choose = (number) => {
    current = rollouts[number];
    rollouts.forEach((one) => { one.hidden = one !== current; });
    slider.max = leads().length - 1;
    show(0);
  };
  const play = (yes) => { playing = yes; button.textContent = yes ? "pause" : "play"; };
  if (select) select.addEventListener("change", () => choose(Number(select.value)));
  button.addEventListener("click", () => play(!playing));
  slider.addEventListener("input", () => { play(false); show(Number(slider.value)); });
  choose(0);
  setInterval(() => { if (playing) show((Number(slider.value) + 1) % leads().length); }, 500);
}
