// What this browser has relit: kept in IndexedDB, and for this visit only where the browser forbids that.

const NAME = "lumiply";
const STORE = "rooms";
const MOST = 12;

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("blocked"));
  });
}

function done(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** Whether a room can be listed and opened. */
function whole(room) {
  return Boolean(room.id) && [room.base, room.before, room.thumb].every((each) => each instanceof Blob);
}

/** Whether there is a result of it. */
export function lit(room) {
  return Object.keys(room.results).length > 0;
}

/** A room as it is stored and as this tab knows it: results of both; what is finished stays so. */
function joined(stored, room) {
  if (!stored) return room;
  return { ...room, results: { ...stored.results, ...room.results }, upload: stored.upload && room.upload, by: room.by ?? stored.by };
}

/**
 * Rooms by id, newest first. A room is
 * {id, made, name, base: Blob, lamps, seed, preset, upload: Blob | null, before: Blob, results: {color: Blob}, thumb: Blob}.
 */
export class History {
  #database = null;
  #kept = new Map();

  async load() {
    try {
      this.#database = await open();
      const request = this.#database.transaction(STORE).objectStore(STORE).getAll();
      await done(request.transaction);
      for (const room of request.result.filter(whole)) this.#kept.set(room.id, room);
      const broken = request.result.filter((room) => !whole(room));
      if (broken.length) await this.#write((store) => broken.forEach((room) => store.delete(room.id)));
    } catch {
      this.#database = null; // private browsing, or storage forbidden
    }
  }

  get rooms() {
    return [...this.#kept.values()].sort((a, b) => b.made - a.made);
  }

  get(id) {
    return this.#kept.get(id);
  }

  async put(room) {
    this.#kept.set(room.id, room);
    const dropped = this.#surplus(room);
    for (const old of dropped) this.#kept.delete(old.id);
    await this.#write((store) => {
      for (const old of dropped) store.delete(old.id);
      store.get(room.id).onsuccess = ({ target }) => store.put(joined(target.result, room));
    });
  }

  /** A room with what another tab has got of it meanwhile. */
  async latest(room) {
    if (!this.#database) return room;
    try {
      const request = this.#database.transaction(STORE).objectStore(STORE).get(room.id);
      await done(request.transaction);
      const known = joined(request.result, room);
      if (this.#kept.has(room.id)) this.#kept.set(room.id, known);
      return known;
    } catch {
      return room;
    }
  }

  /** What is too much beside a room: the oldest, those first that came to nothing. */
  #surplus(room) {
    const worth = (each) => (each.id === room.id ? 2 : Number(lit(each)));
    return this.rooms.sort((a, b) => worth(b) - worth(a)).slice(MOST);
  }

  /** Forget a room if it came to nothing. */
  async removeUnlit(id) {
    const room = this.get(id);
    if (room && !lit(await this.latest(room))) await this.remove(id);
  }

  async remove(id) {
    this.#kept.delete(id);
    await this.#write((store) => store.delete(id));
  }

  async clear() {
    this.#kept.clear();
    await this.#write((store) => store.clear());
  }

  /** Where the disk is full, the rooms stay for this visit: nothing on the page fails. */
  async #write(change) {
    if (!this.#database) return;
    try {
      const transaction = this.#database.transaction(STORE, "readwrite");
      change(transaction.objectStore(STORE));
      await done(transaction);
    } catch (error) {
      console.warn("history not kept:", error);
    }
  }
}
