// The server: requests, their errors in words, and answers that arrive line by line.

export class Fault extends Error {
  constructor(status, what, mend) {
    super(what);
    this.status = status;
    this.mend = mend ?? "";
  }
}

async function checked(response) {
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Fault(response.status, said.error ?? `the server answered ${response.status}`, said.mend);
}

async function asked(address, options) {
  try {
    return await checked(await fetch(address, { credentials: "same-origin", ...options }));
  } catch (error) {
    if (error instanceof Fault || error.name === "AbortError") throw error;
    throw new Fault(0, "the server cannot be reached", "is it still running?");
  }
}

const json = (value, signal) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value), signal });

export const get = async (address) => (await asked(address)).json();
export const post = async (address, value) => (await asked(address, json(value))).json();
export const send = async (address, blob) =>
  (await asked(address, { method: "POST", headers: { "content-type": blob.type || "application/octet-stream" }, body: blob })).json();

/** The objects that `address` answers with, one by one. Throws a Fault where the last one is an error or is missing. */
export async function* lines(address, value, signal, last) {
  const reader = (await asked(address, json(value, signal))).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", whole = false;
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Fault(0, "the answer broke off", "ask again; is the server still running?");
    }
    if (piece.done) break;
    const parts = (rest + piece.value).split("\n");
    rest = parts.pop();
    for (const part of parts) {
      const event = JSON.parse(part);
      if (event.event === "error") throw new Fault(0, event.error, event.mend);
      whole ||= last(event);
      yield event;
    }
  }
  if (!whole) throw new Fault(0, "the answer broke off", "ask again; is the server still running?");
}
