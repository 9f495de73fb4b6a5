// What the node is asked. An answer that is none of 200 to 299 is an error with its code and what to do.

async function answer(response) {
  const found = await response.json();
  if (!response.ok) {
    throw new Error([found.message, found.help].filter(Boolean).join(" – ") || response.statusText);
  }
  return found;
}

export async function get(path, query) {
  const asked = new URLSearchParams(
    Object.entries(query ?? {}).filter(([, value]) => value !== "" && value !== undefined),
  ).toString();
  return answer(await fetch(`/api/v1/${path}${asked ? `?${asked}` : ""}`));
}

export async function change(path, body) {
  const headers = { "content-type": "application/json", "x-palisade-admin": "1" };
  return answer(await fetch(`/api/v1/${path}`, { method: "POST", headers, body: JSON.stringify(body) }));
}
