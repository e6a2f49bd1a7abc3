// Runs in the audio thread: hands the samples over, 2,048 at a time.
registerProcessor("recorder", class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = new Float32Array(2048);
    this.count = 0;
  }

  process([[channel]]) {
    if (!channel) return true;
    for (const sample of channel) {
      this.held[this.count++] = sample;
      if (this.count === this.held.length) {
        this.port.postMessage(this.held.slice());
        this.count = 0;
      }
    }
    return true;
  }
});
