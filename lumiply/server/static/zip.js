// A zip file of stored (not compressed) entries: pictures are compressed already.
// Layout: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (its end).

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value >>> 0;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}

/** Little-endian numbers: [value, bytes] pairs as one array. */
function pack(...fields) {
  const bytes = [];
  for (const [value, size] of fields)
    for (let index = 0; index < size; index += 1) bytes.push((value / 2 ** (8 * index)) & 0xff);
  return Uint8Array.from(bytes);
}

/** Date and time as MS-DOS wrote them, local time, in steps of two seconds. */
function dosTime(date) {
  const time = (date.getHours() << 11) | (date.getMinutes() << 5) | (date.getSeconds() >> 1);
  const day = ((date.getFullYear() - 1980) << 9) | ((date.getMonth() + 1) << 5) | date.getDate();
  return [[time, 2], [day, 2]];
}

/**
 * @param {{name: string, blob: Blob}[]} files
 * @returns {Promise<Blob>} the zip file
 */
export async function zip(files, date = new Date()) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, blob } of files) {
    const data = new Uint8Array(await blob.arrayBuffer());
    const encoded = new TextEncoder().encode(name);
    // version 2.0, names in UTF-8 (bit 11), stored
    const common = [[20, 2], [0x800, 2], [0, 2], ...dosTime(date), [crc32(data), 4], [data.length, 4], [data.length, 4], [encoded.length, 2], [0, 2]];
    const local = pack([0x04034b50, 4], ...common);
    parts.push(local, encoded, data);
    directory.push(pack([0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), encoded);
    offset += local.length + encoded.length + data.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = pack([0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [offset, 4], [0, 2]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
