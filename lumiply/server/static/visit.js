// What is remembered until the tab is closed. Where the browser forbids that, until the page is left.

const instead = new Map();

function storage() {
  try {
    return window.sessionStorage;
  } catch {
    return null; // storage is forbidden, such as with all cookies blocked
  }
}

export function recall(key) {
  return storage()?.getItem(key) ?? instead.get(key) ?? null;
}

export function remember(key, value) {
  try {
    storage().setItem(key, value);
  } catch {
    instead.set(key, value);
  }
}

export function forget(key) {
  instead.delete(key);
  storage()?.removeItem(key);
}
