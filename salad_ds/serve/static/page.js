// The page: a clip comes in, a question goes out, the answer comes back.
import { decoded, draw, peaks, record, wav } from "./sound.js";
import { Fault, get, lines, post, send } from "./talk.js";
import { Gap } from "./gap.js";

const byId = (id) => document.getElementById(id);
const state = { clip: null, heights: [], recording: null, asking: null, limits: null, sound: null };
const gap = new Gap();
const say = (words) => { byId("status").textContent = words; };

function complain(error, place = "question") {
  if (error.name === "AbortError") return;
  byId(place).append(byId("error"));
  if (!(error instanceof Fault)) console.error(error);
  const bold = document.createElement("b");
  bold.textContent = `${error.message[0].toUpperCase()}${error.message.slice(1)}.`;
  byId("error").replaceChildren(bold, error.mend ? ` ${error.mend[0].toUpperCase()}${error.mend.slice(1)}.` : "");
  if (error.status === 401) shut();
}
const TRANSCRIPT = byId("transcript-told").textContent;
const settle = () => byId("error").replaceChildren();
const paint = () => draw(byId("wave"), state.heights, state.recording ? "--orange" : "--green");

// The door.
function shut() {
  byId("room").hidden = true;
  byId("door").hidden = false;
  byId("door").append(byId("error"));
}

async function enter(token) {
  await post("api/enter", { token });
  await open();
}

async function open() {
  const about = await get("api/student");
  settle();
  byId("door").hidden = true;
  byId("room").hidden = false;
  state.limits = about.limits;
  const facts = [["Student", about.student], ["LLM", about.llm], ["Encoder", about.encoder], ["Adapter", about.adapter],
    ["Base LLM", about.base], ["Recogniser", about.asr], ["On", about.device], ["Clips", `up to ${about.limits.seconds} s`]];
  byId("facts").replaceChildren(...facts.filter(([, value]) => value).map(([name, value]) => {
    const row = document.createElement("div"), term = document.createElement("dt"), told = document.createElement("dd");
    term.textContent = name;
    told.textContent = value;
    row.append(term, told);
    return row;
  }));
  byId("facts").hidden = false;
  byId("version").textContent = `salad_ds ${about.version}`;
  byId("propose").hidden = !about.asr;
  byId("manner").hidden = !about.chat;
  byId("tokens").max = about.limits.tokens;
  byId("tokens").value = Math.min(40, about.limits.tokens);
  byId("text").maxLength = about.limits.text;
  byId("transcript").maxLength = about.limits.words;
  if (!navigator.mediaDevices?.getUserMedia) {
    byId("record").disabled = true;
    byId("record-told").textContent = "Browsers give a microphone to https and localhost only: drop a file here.";
  }
  paint();
}

// The clip.
async function take(blob, sound) {
  settle();
  state.clip = null;
  ready();
  if (blob.size > state.limits.bytes) throw new Fault(413, `the file is larger than ${Math.round(state.limits.bytes / 2 ** 20)} MiB`, "give a shorter clip");
  say("Uploading …");
  let heard = blob;
  try {
    sound ??= await decoded(blob);
  } catch { /* the browser cannot; the server may */ }
  let found;
  try {
    found = await send("api/clips", heard);
  } catch (error) {
    if (error.status !== 415 || !sound || sound.samples.length > state.limits.seconds * sound.rate) throw error;
    heard = wav(sound.samples, sound.rate);  // what this browser can decode and the server cannot, such as m4a
    found = await send("api/clips", heard);
  }
  state.clip = found.clip;
  state.heights = sound ? peaks(sound.samples, Math.max(20, Math.floor(byId("wave").clientWidth / 5))) : [];
  URL.revokeObjectURL(byId("player").src);
  byId("player").src = URL.createObjectURL(heard);
  byId("taken").hidden = false;
  byId("clip-facts").textContent = `${found.seconds.toFixed(1)} s at ${found.rate.toLocaleString("en")} Hz. ${found.notice}`;
  byId("transcript").value = "";
  byId("transcript-told").textContent = TRANSCRIPT;
  say(`The clip is here, ${found.seconds.toFixed(1)} seconds.`);
}

function taken(blob, sound) {
  return take(blob, sound).catch((error) => { say(""); complain(error, "clip"); }).finally(() => { paint(); ready(); });
}

function ready() {
  byId("answer-button").disabled = !state.clip || Boolean(state.asking);
  byId("propose").disabled = !state.clip || Boolean(state.asking);
}

async function toggle() {
  const button = byId("record");
  if (state.recording) {
    const recording = state.recording;
    state.recording = null;
    button.classList.remove("recording");
    byId("record-name").textContent = "Record";
    const sound = await recording.stop();
    sound.samples = sound.samples.subarray(0, Math.floor(state.limits.seconds * sound.rate));  // some comes after the end
    byId("record-told").textContent = "Record again, or drop a file here.";
    await taken(wav(sound.samples, sound.rate), sound);
    return;
  }
  settle();
  button.disabled = true;
  try {
    state.heights = [];
    state.recording = await record((peak, seconds) => {
      if (!state.recording) return;
      state.heights.push(peak);
      byId("record-told").textContent = `${seconds.toFixed(1)} of at most ${state.limits.seconds} s`;
      paint();
      if (seconds >= state.limits.seconds - 0.1) toggle();
    });
    button.classList.add("recording");
    byId("record-name").textContent = "Stop";
    say("Recording.");
  } catch (error) {
    const refused = error.name === "NotAllowedError";
    complain(new Fault(0, refused ? "the browser keeps the microphone to itself" : "there is no microphone",
      refused ? "allow it in the address bar, or choose a file" : "choose a file instead"), "clip");
  } finally {
    button.disabled = false;
  }
}

// The question.
async function running(work) {
  settle();
  state.asking = new AbortController();
  byId("stop").hidden = false;
  ready();
  try {
    await work(state.asking.signal);
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped." : "");
    complain(error);
  } finally {
    const stopped = document.activeElement === byId("stop");
    state.asking = null;
    byId("stop").hidden = true;
    ready();
    if (stopped) byId("answer-button").focus();
  }
}
const waiting = (event) => say(event.ahead === 1 ? "One other is before you." : `${event.ahead} others are before you.`);

const propose = () => running(async (signal) => {
  say("The recogniser listens …");
  for await (const event of lines("api/words", { clip: state.clip }, signal, (one) => one.event === "words")) {
    if (event.event === "waiting") waiting(event);
    if (event.event !== "words") continue;
    byId("transcript").value = event.text;
    byId("transcript-told").textContent = `Proposed by ${event.by}, which may mishear: correct it. For the comparison only; the answer is given to the sound.`;
    say(event.text ? "A transcript is proposed." : "The recogniser heard no words.");
  }
});

const ask = () => running(async (signal) => {
  const question = { clip: state.clip, text: byId("text").value, transcript: byId("transcript").value,
    tokens: Number(byId("tokens").value), chat: document.querySelector("input[name=manner]:checked").value === "chat" };
  say("The student hears the clip …");
  let complete = false, voices = [];
  const last = (event) => event.event === "end" || (event.event === "own" && event.done);
  for await (const event of lines("api/answers", question, signal, last)) {
    if (event.event === "waiting") waiting(event);
    if (event.event === "begin") { voices = event.voices; gap.begin(voices); }
    if (event.event === "step") {
      gap.step(event);
      if (event.index === 0) say("Answering …");
    }
    if (event.event === "end") { gap.end(event); if (voices.length > 1) say("Now what it says by itself, reading …"); complete = event; }
    if (event.event === "own") gap.own(event);
  }
  if (complete) say(`Done: ${complete.tokens} tokens${voices.length > 1 ? `, ${complete.kl.read.toFixed(3)} nats apart on average` : ""}.`);
});

byId("record").addEventListener("click", toggle);
byId("file").addEventListener("change", ({ target }) => { if (target.files[0]) taken(target.files[0]); target.value = ""; });
byId("propose").addEventListener("click", propose);
byId("stop").addEventListener("click", () => state.asking?.abort());
byId("ask").addEventListener("submit", (event) => { event.preventDefault(); if (state.clip && !state.asking) ask(); });
byId("door-form").addEventListener("submit", (event) => {
  event.preventDefault();
  settle();
  enter(byId("token").value).catch((error) => complain(error, "door"));
});
const booth = byId("booth");
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  booth.addEventListener(name, (event) => { event.preventDefault(); booth.classList.toggle("over", over); });
}
booth.addEventListener("drop", (event) => { if (event.dataTransfer.files[0]) taken(event.dataTransfer.files[0]); });
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
window.addEventListener("resize", paint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

// The token comes behind the #, which is not sent to anybody; it does not stay in the address either.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) history.replaceState(null, "", location.pathname);
(given ? enter(given) : open()).catch((error) => { if (error.status === 401 && !given) shut(); else complain(error); });
