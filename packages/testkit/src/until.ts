/** Polls until `look` gives something other than undefined or false; fails with `what` after `seconds`. */
export async function until<T>(
  what: string,
  look: () => Promise<T | undefined | false> | T | undefined | false,
  seconds = 15,
): Promise<T> {
  const deadline = Date.now() + seconds * 1000
  let trouble: unknown
  for (;;) {
    try {
      const found = await look()
      if (found !== undefined && found !== false) return found
    } catch (error) {
      trouble = error
    }
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`, { cause: trouble })
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
