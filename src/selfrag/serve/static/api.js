// Calls to the server: JSON, server-sent events over POST, uploads, and the token they carry.
const TOKEN = "selfrag-token";
const CUT_OFF = "the connection was closed while the file was sent; see whether the server runs and takes files of this size, then add it again";
const UNREACHABLE = "the server cannot be reached; see whether it still runs, then try again";

export class ApiError extends Error {
  constructor(status, body) {
    const error = body?.error ?? body ?? {};
    super(error.message || (status ? `the server answered with status ${status} and no reason; try again` : UNREACHABLE));
    this.status = status;
    this.id = error.request_id ?? "";
  }
}

export const setToken = (token) => sessionStorage.setItem(TOKEN, token);
export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;
export const headers = () => (hasToken() ? { Authorization: `Bearer ${sessionStorage.getItem(TOKEN)}` } : {});

let askForToken = async () => false;
export const onTokenNeeded = (ask) => { askForToken = ask; };

// The response, once the server is content with the token; else an ApiError.
async function call(path, { body, signal } = {}) {
  for (;;) {
    const init = { method: body === undefined ? "GET" : "POST", signal, headers: headers() };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
      init.headers["Content-Type"] = "application/json";
    }
    const response = await fetch(path, init).catch((error) => {
      throw error.name === "AbortError" ? error : new ApiError(0);
    });
    if (response.ok) return response;
    if (response.status === 401 && await askForToken(hasToken())) continue;
    throw new ApiError(response.status, await response.json().catch(() => null));
  }
}

export const json = async (path, options) => (await call(path, options)).json();
export const blob = async (path) => (await call(path)).blob();

// The events that are complete in `text`, as [name, data], and what is left of it.
function parse(text) {
  const blocks = text.replaceAll("\r\n", "\n").split("\n\n");
  const rest = blocks.pop();
  const events = [];
  for (const block of blocks) {
    let name = "message";
    const data = [];
    for (const line of block.split("\n")) {
      if (line.startsWith("event:")) name = line.slice(6).trim();
      if (line.startsWith("data:")) data.push(line.slice(5));
    }
    if (data.length) events.push([name, JSON.parse(data.join("\n"))]);
  }
  return [events, rest];
}

export async function* events(path, options) {
  const reader = (await call(path, options)).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "", found = [];
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new ApiError(0);
    });
    if (done) return;
    [found, held] = parse(held + value);
    yield* found;
  }
}

// Sends a form and passes on how much is sent, then every event that comes back. It is an
// XMLHttpRequest because fetch does not tell how much is sent.
export async function upload(path, form, { onSent, onEvent }) {
  for (;;) {
    const request = new XMLHttpRequest();
    let n_read = 0;
    const readOn = () => {
      if (request.status !== 200) return;
      const [found, rest] = parse(request.responseText.slice(n_read));
      n_read = request.responseText.length - rest.length;
      found.forEach(([name, data]) => onEvent(name, data));
    };
    request.open("POST", path);
    Object.entries(headers()).forEach(([name, value]) => request.setRequestHeader(name, value));
    request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    request.onprogress = readOn;
    await new Promise((resolve) => { request.onloadend = resolve; request.send(form); });
    if (request.status === 200) return readOn();
    if (request.status === 401 && await askForToken(hasToken())) continue;
    let body = request.status ? null : { message: CUT_OFF };
    if (request.status) try { body = JSON.parse(request.responseText); } catch { /* the status says what there is */ }
    throw new ApiError(request.status, body);
  }
}
