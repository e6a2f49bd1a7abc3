// The answer with a bar over each token, and what each voice expected there. Pointing at a token, or walking with the
// arrow keys, chooses the step that the columns show; while the answer grows they follow its end until one does.

const byId = (id) => document.getElementById(id);
const make = (tag, name = "", ...children) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...children);
  return made;
};
const figure = (value, digits = 2) => value.toFixed(digits).replace("-", "−");
const percent = (value) => (value >= 0.9995 ? "100 %" : value >= 0.0995 ? `${figure(value * 100, 1)} %` : value >= 0.0001 ? `${figure(value * 100, 2)} %` : "0 %");
const NAMES = { heard: "Heard", read: "Read", base: "Base LLM, reading" };
const WHOSE = { heard: "the student, after the sound", read: "the same student, after the transcript", base: "the LLM it came from, after the transcript" };
const OWN = { heard: "It answers", read: "By itself it would answer", base: "By itself it would answer" };

/** A token as it is shown: a line's end as an arrow, and where it is to be seen (`dot`) a blank in front as a dot. */
function shown(piece, dot) {
  const inner = piece.replace(/\n/g, "⏎").replace(/\t/g, "⇥"), body = inner.trimStart();
  const found = make("span", "word");
  if (body !== inner || !inner) found.append(dot || !body ? make("i", "", "·") : " ");
  found.append(body);
  return found;
}
const spoken = (piece) => (piece.trim() ? `“${piece.trim()}”` : piece.includes("\n") ? "a new line" : "a blank");

export class Gap {
  constructor() {
    this.answer = byId("answer");
    this.answer.addEventListener("click", (event) => {
      const token = event.target.closest(".token");
      if (token) this.choose(Number(token.dataset.index), true);
    });
    this.answer.addEventListener("keydown", (event) => this.walk(event));
  }

  begin(voices) {
    this.voices = voices;
    this.steps = [];
    this.chosen = -1;
    this.follow = true;
    this.compared = voices.includes("read");
    for (const id of ["answer", "columns", "tiles", "steps-head", "steps-body"]) byId(id).replaceChildren();
    byId("gap").hidden = false;
    byId("steps").hidden = byId("scale").hidden = true;
    byId("step-told").textContent = "";
    byId("gap-told").textContent = this.compared
      ? "A bar over a token is KL(read ‖ heard), nats: how far the student that reads is from the student that hears, just before that token."
      : "There is no transcript, so there is nothing to compare the answer with.";
    this.columns = {};
    this.answer.setAttribute("aria-busy", "true");
    byId("gap").scrollIntoView();
    for (const name of voices) {
      const text = make("blockquote"), told = make("p", "figure"), chances = make("ol", "chances");
      byId("columns").append(make("article", `voice ${name}`, make("h4", "", NAMES[name]), make("p", "whose", WHOSE[name]),
        text, told, chances));
      this.columns[name] = { text, told, chances };
      text.append(make("span", "lead-in", "…"));
    }
    const heads = ["", "token", ...voices.map((name) => `P, ${name}`), ...voices.slice(1).map((name) => `KL(${name} ‖ heard)`)];
    byId("steps-head").append(...heads.map((head, column) => {
      const cell = make(column ? "th" : "td", "", head);
      if (column) cell.scope = "col";
      return cell;
    }));
  }

  /** One more token. */
  step(event) {
    this.steps.push(event);
    const { voices, index } = event, kl = voices.read?.kl ?? 0;
    const bar = make("span", this.compared ? "bar" : "bar none");
    const other = this.compared && voices.read.top[0][0] !== event.piece;
    const token = make("button", other ? "token other" : "token", bar, shown(event.piece, false));
    token.type = "button";
    token.dataset.index = index;
    token.tabIndex = index ? -1 : 0;
    token.setAttribute("role", "option");
    token.setAttribute("aria-selected", "false");
    token.setAttribute("aria-label", `${index + 1}: ${spoken(event.piece)}, heard ${percent(voices.heard.p)}`
      + (this.compared ? `, read ${percent(voices.read.p)}, KL ${figure(kl)} nats` : ""));
    this.answer.append(token);
    this.column("heard", event.text);
    const row = make("tr", "", make("td", "", String(index + 1)), make("th", "", spoken(event.piece)));
    row.lastChild.scope = "row";
    row.append(...this.voices.map((name) => make("td", "", percent(voices[name].p))),
      ...this.voices.slice(1).map((name) => make("td", "", figure(voices[name].kl, 3))));
    byId("steps-body").append(row);
    this.scale();
    this.tiles();
    if (this.follow) this.choose(index);
  }

  /** Bars of one height scale: the tallest is the largest KL, but never less than 1 nat. */
  scale() {
    if (!this.compared) return;
    const top = Math.max(1, ...this.steps.map((step) => step.voices.read.kl));
    this.answer.querySelectorAll(".token").forEach((token, i) => token.style.setProperty("--kl", this.steps[i].voices.read.kl / top));
    const other = make("span", "", make("i", "dots"), "reading, its first choice would have been another");
    byId("scale").replaceChildren(make("span", "", make("i", "high"), `a full bar is ${figure(top)} nats`), other);
    byId("scale").hidden = false;
  }

  tiles(end) {
    const count = this.steps.length, mean = (name) => this.steps.reduce((sum, step) => sum + step.voices[name].kl, 0) / count;
    const tile = (name, value, from) => make("li", "", make("span", "name", name), make("span", "value", value), make("span", "from", from));
    const found = [];
    if (this.compared) {
      const agree = this.steps.filter((step) => step.voices.read.top[0][0] === step.piece).length;
      found.push(tile("KL(read ‖ heard), nats per token", figure(mean("read"), 3), "the gap: 0 is none"));
      found.push(tile("Same first choice, heard and read", `${agree} of ${count}`, percent(agree / count)));
    }
    if (this.voices.includes("base")) found.push(tile("KL(base ‖ heard), nats per token", figure(mean("base"), 3), "what training minimises"));
    if (end) {
      found.push(tile("First token after", `${figure(end.first, 2)} s`, "hearing the clip included"));
      found.push(tile("Tokens per second", figure(end.tokens / Math.max(end.seconds, 1e-3), 1), `${end.tokens} tokens, in every column`));
    }
    byId("tiles").replaceChildren(...found);
  }

  end(event) {
    this.answer.removeAttribute("aria-busy");
    this.tiles(event);
    byId("steps").hidden = false;
    for (const name of this.voices.slice(1)) this.column(name, "");
  }

  own(event) { this.column(event.voice, event.text); }

  column(name, text) {
    this.columns[name].text.replaceChildren(make("span", "lead-in", `${OWN[name]}: `), text || "…");
  }

  walk(event) {
    const ends = { Home: 0, End: this.steps.length - 1, ArrowRight: this.chosen + 1, ArrowDown: this.chosen + 1,
      ArrowLeft: this.chosen - 1, ArrowUp: this.chosen - 1 };
    if (!(event.key in ends) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.choose(Math.max(0, Math.min(this.steps.length - 1, ends[event.key])), true);
  }

  /** Show what was expected before token `index`. `byHand`: somebody chose it, so the end is no longer followed. */
  choose(index, byHand = false) {
    if (byHand) this.follow = false;
    const tokens = this.answer.children, before = tokens[this.chosen];
    before?.setAttribute("aria-selected", "false");
    if (before) before.tabIndex = -1;
    this.chosen = index;
    tokens[index].setAttribute("aria-selected", "true");
    tokens[index].tabIndex = 0;
    if (byHand) tokens[index].focus();
    const step = this.steps[index];
    byId("step-told").textContent = `Before token ${index + 1}, ${spoken(step.piece)}. Its row is shaded.`
      + (this.compared ? " The line across a bar is the same token's probability in the other condition: in that of hearing, and for Heard in that of reading." : "");
    // One scale for all columns: the tallest of what they show.
    const top = Math.max(...this.voices.flatMap((name) => step.voices[name].top.flatMap(([, own, other]) => [own, other ?? 0])));
    for (const name of this.voices) this.expect(name, step, top);
  }

  expect(name, step, top) {
    const { told, chances } = this.columns[name], voice = step.voices[name];
    told.textContent = (name === "heard" ? "" : `KL ${figure(voice.kl)}, `) + `entropy ${figure(voice.entropy)} nats`;
    const twin = { heard: "read", read: "heard", base: "heard" }[name];
    chances.replaceChildren(...voice.top.map(([piece, own, other]) => {
      const bar = make("span", "own");
      bar.style.setProperty("--p", own / top);
      const track = make("span", "track", bar);
      track.setAttribute("aria-hidden", "true");
      const line = make("li", piece === step.piece ? "said" : "", shown(piece, true), track, make("span", "chance", percent(own)));
      if (this.compared && other !== null) {
        const ghost = make("span", "ghost");
        ghost.style.setProperty("--q", other / top);
        track.append(ghost);
        line.title = `${twin}: ${percent(other)}`;
        line.append(make("span", "skip", `, ${twin} ${percent(other)}`));
      }
      return line;
    }));
    chances.setAttribute("aria-label", `Likeliest tokens, ${NAMES[name].toLowerCase()}`);
  }
}
