// Sound: the microphone, WAV files made in the browser, and the picture of a wave. No encoder but PCM.

const text = (view, at, word) => { for (let i = 0; i < word.length; i++) view.setUint8(at + i, word.charCodeAt(i)); };

/** Float32 samples in [-1, 1] → a 16-bit mono WAV file. */
export function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + samples.length * 2));
  text(view, 0, "RIFF"); view.setUint32(4, 36 + samples.length * 2, true);
  text(view, 8, "WAVEfmt "); view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, rate * 2, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(view, 36, "data"); view.setUint32(40, samples.length * 2, true);
  samples.forEach((sample, i) => view.setInt16(44 + i * 2, Math.round(Math.max(-1, Math.min(1, sample)) * 32767), true));
  return new Blob([view], { type: "audio/wav" });
}

/** Samples of a file the browser can decode, mixed to mono; throws where it cannot. */
export async function decoded(blob) {
  const context = new OfflineAudioContext(1, 1, 48000);
  const sound = await context.decodeAudioData(await blob.arrayBuffer());
  const mono = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((sample, i) => { mono[i] += sample / sound.numberOfChannels; });
  }
  return { samples: mono, rate: sound.sampleRate };
}

/** Records from the microphone. `heard(peak, seconds)` is called as sound comes in; `stop()` → { samples, rate }. */
export async function record(heard) {
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  const context = new AudioContext();
  const pieces = [];
  let count = 0;
  const close = () => { for (const track of stream.getTracks()) track.stop(); return context.close(); };
  try {
    await context.audioWorklet.addModule("recorder.js");
    await context.resume();
    const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    recorder.port.onmessage = ({ data }) => {
      pieces.push(data);
      count += data.length;
      heard(data.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0), count / context.sampleRate);
    };
    context.createMediaStreamSource(stream).connect(recorder);
  } catch (error) {
    await close();
    throw error;
  }
  return {
    async stop() {
      const rate = context.sampleRate;
      await close();
      const samples = new Float32Array(count);
      let at = 0;
      for (const piece of pieces) { samples.set(piece, at); at += piece.length; }
      return { samples, rate };
    },
  };
}

/** Peaks of `samples` in `parts` equal parts. */
export function peaks(samples, parts) {
  const found = new Array(parts).fill(0), width = samples.length / parts;
  for (let i = 0; i < samples.length; i++) {
    const part = Math.min(Math.floor(i / width), parts - 1);
    found[part] = Math.max(found[part], Math.abs(samples[i]));
  }
  return found;
}

/** Bars of `heights` (0 to 1) on a canvas, in the page's colours; nothing yet is a line of dots. */
export function draw(canvas, heights, colour) {
  const scale = window.devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d"), style = getComputedStyle(canvas), step = 5;
  pen.scale(scale, scale);
  pen.lineCap = "round";
  pen.lineWidth = 3;
  const room = Math.floor(width / step), shown = heights.slice(-room), top = Math.max(0.05, ...shown);
  for (let i = 0; i < room; i++) {
    const size = i < shown.length ? Math.max(1, (shown[i] / top) * (height / 2 - 3)) : 0.5;
    pen.strokeStyle = style.getPropertyValue(i < shown.length ? colour : "--rule");
    pen.beginPath();
    pen.moveTo(i * step + 2.5, height / 2 - size);
    pen.lineTo(i * step + 2.5, height / 2 + size);
    pen.stroke();
  }
}
