// Means over seeds and Welch's t-test, as gan_lab/report/statistics.py has them; figures as text.
const ALPHA = 0.05;

/** `{n, mean, error}`, the error null for fewer than two values; null without values. */
function mean(values) {
  if (!values.length) return null;
  const n = values.length;
  const average = values.reduce((sum, value) => sum + value, 0) / n;
  const variance = values.reduce((sum, value) => sum + (value - average) ** 2, 0) / (n - 1);
  return { n, mean: average, error: n > 1 ? Math.sqrt(variance / n) : null };
}

/** Lanczos' approximation with g = 7 and nine terms. */
function logGamma(z) {
  const terms = [
    676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059, 12.507343278686905,
    -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
  ];
  const sum = terms.reduce((partial, term, i) => partial + term / (z + i), 0.99999999999980993);
  return 0.5 * Math.log(2 * Math.PI) + (z - 0.5) * Math.log(z + 6.5) - (z + 6.5) + Math.log(sum);
}

/** The regularized incomplete beta function, by its continued fraction (Lentz's method). */
function incompleteBeta(x, a, b) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const nonzero = (value) => (Math.abs(value) < 1e-300 ? 1e-300 : value);
  let c = 1;
  let d = 1 / nonzero(1 - ((a + b) * x) / (a + 1));
  let fraction = d;
  for (let m = 1; m < 500 && Math.abs(c * d - 1) > 1e-15; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    for (const term of [even, odd]) {
      d = 1 / nonzero(1 + term * d);
      c = nonzero(1 + term / c);
      fraction *= c * d;
    }
  }
  const front = logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(1 - x);
  return (Math.exp(front) * fraction) / a;
}

/** The two-sided p of Welch's t-test; null where it says nothing. */
function welch(first, second) {
  const [a, b] = [mean(first), mean(second)];
  if (!a || !b || a.error === null || b.error === null || a.error + b.error === 0) return null;
  const [va, vb] = [a.error ** 2, b.error ** 2];
  const tSquared = (a.mean - b.mean) ** 2 / (va + vb);
  const freedom = (va + vb) ** 2 / (va ** 2 / (a.n - 1) + vb ** 2 / (b.n - 1));
  return incompleteBeta(freedom / (freedom + tSquared), freedom / 2, 0.5);
}

function fourDigits(value) {
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

/** A mean and its standard error with two digits of the error. */
function figure({ mean: value, error }) {
  if (!error) return fourDigits(value) + (error === 0 ? " ± 0" : "");
  const digits = Math.min(4, Math.max(0, 1 - Math.floor(Math.log10(error))));
  return `${value.toFixed(digits)} ± ${error.toFixed(digits)}`;
}

function duration(hours) {
  if (hours < 0.025) return `${(3600 * hours).toFixed(1)} s`;
  return hours < 1.5 ? `${(60 * hours).toFixed(1)} min` : `${hours.toFixed(1)} h`;
}

const thousands = (count) => count.toLocaleString("en");
