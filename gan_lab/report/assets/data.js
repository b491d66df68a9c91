// What gan_lab/report/packing.py packed: JSON, low and high bytes of numbers, images.
let facts, lowBytes, highBytes, imageBytes;
const unpackedSeries = new Map();

async function inflate(id) {
  const holder = document.getElementById(id);
  const bytes = Uint8Array.from(atob(holder.textContent.trim()), (character) => character.charCodeAt(0));
  holder.remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function unpack(packed) {
  const length = new DataView(packed.buffer).getUint32(0, true);
  facts = JSON.parse(new TextDecoder().decode(packed.subarray(4, 4 + length)));
  lowBytes = packed.subarray(4 + length);
  highBytes = lowBytes.subarray(facts.numbers);
  imageBytes = highBytes.subarray(facts.numbers);
  let start = 0;
  facts.runs.forEach((run, index) => {
    run.index = index;
    run.targets = new Map(Object.entries(run.targets));
    run.series = new Map(Object.entries(run.series));
    for (const [name, [place, points, whole, scale, least, step]] of run.series) {
      run.series.set(name, { place, points, whole, scale, least, step, start });
      start += points * (whole ? 1 : 3);
    }
  });
  facts.keys = new Map(facts.keys.map((key) => [key.key, key]));
}

/** A run's series `{x, least, mean, most}`, or null where it has none of that name. */
function seriesOf(run, name) {
  const packed = run.series.get(name);
  if (!packed) return null;
  if (!unpackedSeries.has(packed)) {
    const { place, points, whole, scale, least, step, start } = packed;
    const number = (i) => scale * Math.sinh(least + step * (lowBytes[i] + 256 * highBytes[i]));
    const take = (part) => Array.from({ length: points }, (_, i) => number(start + part * points + i));
    const [first, second, third] = whole ? [take(0)] : [take(0), take(1), take(2)];
    const x = facts.iterations[place];
    unpackedSeries.set(packed, { x, least: first, mean: second ?? first, most: third ?? first });
  }
  return unpackedSeries.get(packed);
}

const imageUrls = new Map();

/** A URL for an image that starts at this byte. */
function imageUrl(start, size) {
  if (!imageUrls.has(start)) {
    const blob = new Blob([imageBytes.subarray(start, start + size)], { type: "image/webp" });
    imageUrls.set(start, URL.createObjectURL(blob));
  }
  return imageUrls.get(start);
}
