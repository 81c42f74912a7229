// The masks of training, bit for bit: the same Philox words, integer weights and races as hardmask.kernels and
// hardmask.stage2_pretrain, for one sequence at a time. Numbers are integers below 2^53, which a double holds exactly;
// where a product is larger, BigInt. Qn means: an integer counting units of 2^-n. Names are those of the Python.
"use strict";

const hardmaskMasks = (() => {
  const TWO32 = 2 ** 32;
  const LOG2_BITS = 36;
  const ONE = 2 ** LOG2_BITS;
  const POWER_BITS = 40;
  const FRACTION = 2 ** 24;
  const VALUE_BITS = 38;
  const TOKEN_BITS = 39;
  const EXTRA = 2 ** 13;
  const KEY_UNIT = 2 ** 10; // of Q36 logarithms in a Q26 key
  const SMALL_X = 2 ** 22;
  const ZERO_WEIGHT = 2 ** 33;
  const NEVER = 2 ** 34;
  const LOG2_E = 1.4426950408889634;
  const LOG2_LN2 = -36336548464; // log2(ln 2) in Q36
  const MAX_LENGTH = 8192;
  const PURPOSE = { race: 0, corruption: 1, span: 3 };
  // Above which random words a span has one more word: SpanBERT's chances 0.2 * 0.8^(l-1), l of 1 … 10.
  const SPAN_LIMITS = [
    962321997, 1732179594, 2348065672, 2840774535, 3234941624, 3550275296, 3802542234, 4004355784, 4165806624,
  ];
  const SPAN_TOKENS = 5;

  // ------------------------------------------------------------ integers

  const roundHalfEven = (x) => {
    const down = Math.floor(x);
    const rest = x - down;
    return rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down;
  };

  const highProduct = (a, b) => {
    const a0 = a & 0xffff, a1 = a >>> 16, b0 = b & 0xffff, b1 = b >>> 16;
    const middle = a1 * b0 + ((a0 * b0) >>> 16);
    const other = a0 * b1 + (middle % 65536);
    return a1 * b1 + Math.floor(middle / 65536) + Math.floor(other / 65536);
  };

  /** Philox4x32-10 of four counters under two key words; all uint32. */
  function philox(key0, key1, c0, c1, c2, c3) {
    for (let round = 0; round < 10; round++) {
      const high0 = highProduct(0xd2511f53, c0), low0 = Math.imul(0xd2511f53, c0) >>> 0;
      const high1 = highProduct(0xcd9e8d57, c2), low1 = Math.imul(0xcd9e8d57, c2) >>> 0;
      c0 = (high1 ^ c1 ^ key0) >>> 0;
      c1 = low1;
      c2 = (high0 ^ c3 ^ key1) >>> 0;
      c3 = low0;
      key0 = (key0 + 0x9e3779b9) >>> 0;
      key1 = (key1 + 0xbb67ae85) >>> 0;
    }
    return [c0, c1, c2, c3];
  }

  const keyedWords = (seed, purpose, position, row, epoch) =>
    philox(seed, purpose, position, row.low, row.high, epoch);

  // ------------------------------------------------------------ fixed point

  let log2Table, log2Steps, exp2Table, exp2Steps;

  /** Tables of hardmask.kernels.fixed_point, as steps between entries. */
  function useTables(steps) {
    const sums = (first, by) => {
      const values = new Float64Array(by.length + 1);
      values[0] = first;
      by.forEach((step, i) => { values[i + 1] = values[i] + step; });
      return values;
    };
    log2Steps = steps.log2;
    exp2Steps = steps.exp2;
    log2Table = sums(0, log2Steps);
    exp2Table = sums(2 ** POWER_BITS, exp2Steps);
  }

  const view = new DataView(new ArrayBuffer(8));

  /** log2 in Q36 of an integer 1 … 2^53-1; 0 for 0. */
  function log2(value) {
    view.setFloat64(0, Math.max(value, 1));
    const high = view.getUint32(0), low = view.getUint32(4);
    const index = (high & 0xfffff) >>> 8;
    const fraction = (high & 0xff) * 65536 + (low >>> 16);
    const whole = (high >>> 20) - 1023;
    return whole * ONE + log2Table[index] + Math.floor((log2Steps[index] * fraction) / FRACTION);
  }

  /** log2 in Q36 of a float32 by its bits; 0 below 1. */
  function log2OfFloat32(bits) {
    const above = Math.max(bits, 0x3f800000);
    return log2((above & 0x7fffff) + 2 ** 23) + ((above >>> 23) - 150) * ONE;
  }

  /** 2^x as an integer, rounded down, for x in Q36. */
  function exp2(exponent) {
    const step = Math.floor(exponent / FRACTION);
    const index = ((step % 4096) + 4096) % 4096;
    const fraction = exponent - step * FRACTION;
    const mantissa = exp2Table[index] + Math.floor((exp2Steps[index] * fraction) / FRACTION);
    return Math.floor(mantissa * 2 ** -Math.min(POWER_BITS - Math.floor(exponent / ONE), 62));
  }

  function log2Sum(one, other) {
    const share = exp2(LOG2_BITS * ONE - Math.abs(one - other));
    return Math.max(one, other) + log2(ONE + share) - LOG2_BITS * ONE;
  }

  const scaled = (logarithm, factor) =>
    Number((BigInt(Math.floor(logarithm / 4096)) * BigInt(roundHalfEven(factor * 65536))) >> 4n);

  const bitLength = (value) => {
    view.setFloat64(0, value);
    return (view.getUint32(0) >>> 20) - 1022;
  };

  /** Shifted so that the largest has exactly `bits` bits. */
  function normalised(values, bits) {
    const largest = values.reduce((a, b) => Math.max(a, b), 0);
    const factor = largest > 0 ? 2 ** (bits - bitLength(largest)) : 1;
    return values.map((value) => Math.floor(value * factor));
  }

  /** Integers proportional to 2^x, the largest of `bits` bits; 0 outside `within`. */
  function powers(logarithms, within, bits) {
    let largest = -(2 ** 62);
    logarithms.forEach((x, i) => { if (within[i]) largest = Math.max(largest, x); });
    return logarithms.map((x, i) => (within[i] ? exp2(Math.min(x - largest, 0) + (bits - 1) * ONE) : 0));
  }

  // ------------------------------------------------------------ weights

  const alphaUnits = (alpha) => roundHalfEven(alpha * TWO32);

  /** Values of at most 38 bits plus alpha times their sum (Eq. 4). */
  function smoothed(values, maskable, alpha) {
    if (alpha === Infinity) return maskable.map(Number);
    const total = values.reduce((a, b) => a + b, 0);
    const share = BigInt(Math.floor(total / 2 ** 20)) * BigInt(alphaUnits(alpha));
    const smoothing = Number(share >> 12n);
    return values.map((value, i) => (maskable[i] ? value + smoothing : 0));
  }

  const smoothedWeights = (values, maskable, alpha) =>
    smoothed(normalised(values.map((v, i) => (maskable[i] ? v : 0)), VALUE_BITS), maskable, alpha);

  /** Integers proportional to P, before smoothing: the sum of both perplexities from their bits. */
  function perplexityValues({ forward, backward, maskable }) {
    const exponent = (bits) => Math.max(bits >>> 23, 1);
    const mantissa = (bits) => (bits & 0x7fffff) + (bits >>> 23 > 0 ? 2 ** 23 : 0);
    let largest = 1;
    maskable.forEach((on, i) => {
      if (on) largest = Math.max(largest, exponent(forward[i]), exponent(backward[i]));
    });
    const aligned = (bits) => Math.floor(mantissa(bits) * EXTRA * 2 ** -Math.min(largest - exponent(bits), 62));
    return maskable.map((on, i) => (on ? aligned(forward[i]) + aligned(backward[i]) : 0));
  }

  const logarithms = (bits, maskable) => maskable.map((on, i) => (on ? log2OfFloat32(bits[i]) : 0));

  const TRANSFORMS = {
    perplexity: (f, b, row) => powers(f.map((x, i) => log2Sum(x, b[i])), row.maskable, VALUE_BITS),
    nll: (f, b) => f.map((x, i) => Math.floor((x + b[i]) / 256)),
    power: (f, b, row, of) =>
      powers(f.map((x, i) => scaled(log2Sum(x, b[i]) - ONE, of.tau)), row.maskable, VALUE_BITS),
    clip: (f, b, row, of) => {
      const limit = roundHalfEven(of.clip_nats * LOG2_E * ONE);
      return powers(f.map((x, i) => log2Sum(Math.min(x, limit), Math.min(b[i], limit))), row.maskable, VALUE_BITS);
    },
  };

  function transformed(row, of, forward, backward) {
    return smoothedWeights(TRANSFORMS[of.transform](forward, backward, row, of), row.maskable, of.alpha);
  }

  const WEIGHTS = {
    uniform: (row) => row.maskable.map(Number),
    hardness: (row, of) =>
      of.transform === "perplexity"
        ? smoothed(perplexityValues(row), row.maskable, of.alpha)
        : transformed(row, of, logarithms(row.forward, row.maskable), logarithms(row.backward, row.maskable)),
    "hardness-word": (row, of) => {
      const heads = headsOf(row.wordStarts, row.maskable);
      const [forward, backward] = [row.forward, row.backward].map((bits) => sums(logarithms(bits, row.maskable), heads));
      return transformed(row, of, forward, backward);
    },
  };

  // ------------------------------------------------------------ units

  const bounded = (starts, maskable) =>
    starts.map((begins, i) => begins || !maskable[i] || i === 0 || !maskable[i - 1]);

  function headsOf(starts, maskable) {
    let head = 0;
    return bounded(starts, maskable).map((begins, i) => { if (begins) head = i; return head; });
  }

  function sums(values, heads) {
    const total = new Array(values.length).fill(0);
    values.forEach((value, i) => { total[heads[i]] += value; });
    return heads.map((head) => total[head]);
  }

  function segments(row, starts, of, epoch, lengthOf) {
    const begins = new Array(starts.length + 1).fill(false);
    begins[0] = true;
    let item = 0;
    for (let k = 0; k < starts.length && item < starts.length; k++) {
      item += lengthOf(keyedWords(of.seed, PURPOSE.span, k, row, epoch)[0]);
      begins[Math.min(item, starts.length)] = true;
    }
    let count = 0;
    return starts.map((begin) => { if (begin) count += 1; return begin && begins[count - 1]; });
  }

  const UNITS = {
    word: (row) => row.wordStarts,
    span: (row, of, epoch) => {
      const starts = bounded(row.wordStarts, row.maskable).map((begins, i) => begins && row.maskable[i]);
      return segments(row, starts, of, epoch, (random) => 1 + SPAN_LIMITS.filter((limit) => random >= limit).length);
    },
    "span-tokens": (row, of, epoch) =>
      segments(row, row.maskable, of, epoch, (random) => 1 + Math.floor((random * SPAN_TOKENS) / TWO32)),
  };

  function unitWeights(weights, heads, how) {
    const total = sums(normalised(weights, TOKEN_BITS), heads);
    const sizes = sums(weights.map(() => 1), heads);
    return how === "sum" ? total : total.map((value, i) => Math.floor(value / sizes[i]));
  }

  // ------------------------------------------------------------ races

  function log2Exponential(word) {
    const x = Math.max(word, 1);
    if (x < SMALL_X) return log2(x * 16 + Math.floor((x * x) / 2 ** 29));
    return log2(32 * ONE - log2(TWO32 - x)) + LOG2_LN2;
  }

  const maskSlots = (count, permille) => Math.floor((permille * count + 500) / 1000);
  const permilleOf = (rate) => roundHalfEven(rate * 1000);
  const groupCount = (of) => of.groups || Math.max(1, roundHalfEven(1 / of.rate));

  /** Maskable positions, the winner first; those of a unit follow each other. */
  function ranked(row, weights, heads, of, epoch) {
    const keys = weights.map((weight, i) => {
      const word = keyedWords(of.seed, PURPOSE.race, heads ? heads[i] : i, row, epoch)[0];
      const key = Math.floor((log2Exponential(word) - log2(weight)) / KEY_UNIT);
      return key + (row.maskable[i] ? (weight === 0 ? ZERO_WEIGHT : 0) : NEVER);
    });
    const order = weights.map((_, i) => i).filter((i) => row.maskable[i]);
    return order.sort((i, j) => keys[i] - keys[j] || (heads ? heads[i] - heads[j] : 0) || i - j);
  }

  const group = (order, number, groups) =>
    order.slice(Math.floor((number * order.length) / groups), Math.floor(((number + 1) * order.length) / groups));

  function inPlace(row, of, epoch) {
    const places = row.maskable.flatMap((on, i) => (on ? [i] : []));
    const random = keyedWords(of.seed, PURPOSE.race, 0, row, epoch)[1];
    const first = Math.floor((random * places.length) / TWO32);
    return [...places.slice(first), ...places.slice(0, first)];
  }

  const SAMPLERS = {
    race: (row, weights, heads, of, epoch) => {
      const slots = maskSlots(Math.max(row.maskable.length - 2, 0), permilleOf(of.rate));
      const order = ranked(row, weights, heads, of, epoch);
      const drawn = order.slice(0, Math.min(slots, maskSlots(order.length, permilleOf(of.rate))));
      if (of.cut_units || !heads) return [drawn];
      const sizes = sums(heads.map(() => 1), heads);
      return [drawn.filter((i, slot) => slot + sizes[i] - 1 - (i - heads[i]) < drawn.length)];
    },
    "fully-explored": (row, weights, heads, of, epoch) => {
      const order = ranked(row, weights, heads, of, epoch), groups = groupCount(of);
      return Array.from({ length: groups }, (_, number) => group(order, number, groups));
    },
    "fully-explored-epochs": (row, weights, heads, of, epoch) => {
      const groups = groupCount(of);
      return [group(ranked(row, weights, heads, of, Math.floor(epoch / groups)), epoch % groups, groups)];
    },
    contiguous: (row, _weights, _heads, of, epoch) => {
      const order = inPlace(row, of, epoch), groups = groupCount(of);
      return Array.from({ length: groups }, (_, number) => group(order, number, groups));
    },
    "contiguous-epochs": (row, _weights, _heads, of, epoch) => {
      const groups = groupCount(of);
      return [group(inPlace(row, of, Math.floor(epoch / groups)), epoch % groups, groups)];
    },
  };

  // ------------------------------------------------------------ a strategy

  const DEFAULTS = {
    unit: "token", weight: "uniform", sampler: "race", alpha: 0, transform: "perplexity", tau: 0.5, clip_nats: 10,
    unit_weight: "mean", cut_units: true, groups: 0, static: false, corrupt_by: "token",
    rate: 0.15, mask_share: 0.8, random_share: 0.1, seed: 0,
  };

  /** As in hardmask.stage2_pretrain.presets; a test compares them. */
  const STRATEGIES = {
    random: {},
    hardness: { weight: "hardness", alpha: 0.005 },
    "hardness-word": { unit: "word", weight: "hardness-word", alpha: 0.005, corrupt_by: "unit" },
    "whole-word": { unit: "word", corrupt_by: "unit" },
    span: { unit: "span", corrupt_by: "unit" },
    "span-tokens": { unit: "span-tokens", corrupt_by: "unit" },
    "fully-explored": { sampler: "fully-explored" },
    "weighted-explored": { sampler: "fully-explored", weight: "hardness", alpha: 0.005 },
    static: { static: true },
  };

  /** What of a composition cannot be shown here; empty if all can. */
  function unsupported(of) {
    if ((of.mixture || []).length) return "a mixture";
    if (of.schedule && of.schedule !== "constant") return "a schedule: masks depend on the step";
    if (of.unit !== "token" && !(of.unit in UNITS)) return `unit ${of.unit} needs annotations of the corpus`;
    if (!(of.weight in WEIGHTS)) return `weight ${of.weight} needs tables of the corpus or of the training`;
    return of.sampler in SAMPLERS ? "" : `sampler ${of.sampler}`;
  }

  const complete = (of) => ({ ...DEFAULTS, ...of });

  /** The largest alpha of a row of so many positions. */
  const alphaLimit = (length) => MAX_LENGTH / length;

  function weightsAndHeads(row, of, epoch) {
    const weights = WEIGHTS[of.weight](row, of);
    if (of.unit === "token") return { weights, heads: null };
    const heads = headsOf(UNITS[of.unit](row, of, epoch), row.maskable);
    return { weights: unitWeights(weights, heads, of.unit_weight), heads };
  }

  /**
   * What a strategy does to a row in an epoch. `row`: { high, low } of the sequence id, and arrays [L]: forward and
   * backward (bits of float32), maskable, wordStarts. `of`: a complete composition.
   * Returns weights [L], heads [L] or null, and groups: the masked positions of each pass, in the order drawn.
   */
  function draw(row, of, epoch) {
    const at = of.static ? 0 : epoch;
    const { weights, heads } = weightsAndHeads(row, of, at);
    return { weights, heads, groups: SAMPLERS[of.sampler](row, weights, heads, of, at) };
  }

  /** What the model sees at a drawn position: "mask", "same", or a random token's id. `special`: ids, ascending. */
  function corruption(row, of, epoch, heads, position, { vocabulary, special }) {
    const at = of.static ? 0 : epoch;
    const own = keyedWords(of.seed, PURPOSE.corruption, position, row, at);
    const byUnit = heads && of.corrupt_by === "unit";
    const choice = byUnit ? keyedWords(of.seed, PURPOSE.corruption, heads[position], row, at)[0] : own[0];
    const belowMask = roundHalfEven(of.mask_share * TWO32);
    if (choice < belowMask) return "mask";
    if (choice >= belowMask + roundHalfEven(of.random_share * TWO32)) return "same";
    let id = Math.floor((own[1] * (vocabulary - special.length)) / TWO32);
    special.forEach((other) => { if (other <= id) id += 1; });
    return id;
  }

  // ------------------------------------------------------------ expectation

  /**
   * Expected inclusion of each position in the mask of one pass, [L], by an approximation: positions finish at
   * independent exponential times, and the time at which M have finished on average is taken for the time at which M
   * have: q_i = 1 - exp(-w_i t), the sum of all q_i being M. Of a unit, which the end of the mask may cut, the position
   * with o before it counts at the time at which o fewer have finished; then M is moved until the sum is right.
   */
  function inclusion(row, drawn, of, number) {
    const { weights, heads } = drawn;
    const count = row.maskable.filter(Boolean).length;
    if (of.sampler.startsWith("contiguous")) {
      const size = drawn.groups[number].length;
      return row.maskable.map((on) => (on && count ? size / count : 0));
    }
    const offsets = weights.map((_, i) => (heads ? i - heads[i] : 0));
    const sampledAt = of.sampler === "race"
      ? [0, drawn.groups[0].length]
      : [number, number + 1].map((n) => Math.floor((n * count) / groupCount(of)));
    const [before, behind] = sampledAt.map((size) => finishedBy(row.maskable, weights, offsets, size));
    return behind.map((q, i) => Math.max(0, q - before[i]));
  }

  /** Chance of each position to be among the first `size` of the race. */
  function finishedBy(maskable, weights, offsets, size) {
    const racing = weights.map((w, i) => (maskable[i] && w > 0 ? w : 0));
    const first = racing.filter((w) => w > 0).length;
    const all = maskable.filter(Boolean).length;
    if (size <= 0) return maskable.map(() => 0);
    if (size >= first) {
      const rest = all > first ? (size - first) / (all - first) : 0;
      return maskable.map((on, i) => (on ? (racing[i] > 0 ? 1 : rest) : 0));
    }
    const largest = racing.reduce((a, b) => Math.max(a, b), 0);
    const share = racing.map((w) => w / largest);
    const expect = (times) => share.map((w, i) => -Math.expm1(-w * times(offsets[i])));
    const sum = (values) => values.reduce((a, b) => a + b, 0);
    const plain = 2 ** root((log) => sum(expect(() => 2 ** log)) - size, -60, 80);
    const longest = offsets.reduce((a, b) => Math.max(a, b), 0);
    if (!longest) return expect(() => plain);
    const grid = Array.from({ length: 281 }, (_, k) => -60 + k / 2);
    const finished = grid.map((log) => sum(expect(() => 2 ** log)));
    const timeOf = (target) => {
      if (target <= finished[0]) return 0;
      const k = finished.findIndex((value) => value >= target);
      if (k < 0) return 2 ** 80;
      const part = (target - finished[k - 1]) / (finished[k] - finished[k - 1]);
      return 2 ** (grid[k - 1] + part / 2);
    };
    const timesOf = (target) => {
      const times = Array.from({ length: longest + 1 }, (_, offset) => timeOf(target - offset));
      return (offset) => times[offset];
    };
    const target = root((moved) => sum(expect(timesOf(moved))) - size, size, size + longest);
    return expect(timesOf(target));
  }

  /** Where an increasing function changes its sign. */
  function root(f, low, high) {
    for (let step = 0; step < 50; step++) {
      const middle = (low + high) / 2;
      if (f(middle) < 0) low = middle;
      else high = middle;
    }
    return high;
  }

  // ------------------------------------------------------------ words

  const SPACE = 0, JOINED = 3;

  /** Where words begin, from the kinds of the first and last character of each token: hardmask.pipeline.words. */
  function wordStarts(kinds) {
    return kinds.map((kind, i) => {
      if (i === 0) return true;
      const before = Math.floor(kinds[i - 1] / 4), after = kind % 4;
      return after === SPACE || !(after === before || after === JOINED || before === JOINED);
    });
  }

  return {
    STRATEGIES, alphaLimit, complete, corruption, draw, groupCount, headsOf, inclusion, maskSlots, perplexityValues,
    permilleOf, philox, sums, unsupported, useTables, wordStarts,
  };
})();

if (typeof module !== "undefined") module.exports = hardmaskMasks;
