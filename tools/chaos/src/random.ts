/** Whole numbers from 0 on, below the argument. */
export type Random = (below: number) => number

/** mulberry32: the same seed gives the same numbers. */
export function randomOf(seed: number): Random {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

export const oneOf = <T>(random: Random, list: readonly T[]): T => list[random(list.length)]!

/** Bytes for ids, so that a seed makes the same orders. */
export const bytesOf = (random: Random, count: number) => Uint8Array.from({ length: count }, () => random(256))
