/** catalog.md 4.7: payloads at a time. */
export const PARALLEL = 16

/** A run that stops as soon as one of its parts fails, without leaving the others half done. */
export type Run = { failed?: { error: unknown }; signal?: AbortSignal | undefined }

/** Throws when the run is to end: a part of it failed, or whoever began it called it off. */
export function assertGoing({ failed, signal }: Run): void {
  if (failed) throw failed.error
  signal?.throwIfAborted()
}

/** Waits for every part to come to its end, then throws what the first one to fail threw. */
export async function together(run: Run, ...parts: Promise<unknown>[]): Promise<void> {
  const noted = parts.map((part) => part.catch((error: unknown) => (run.failed ??= { error })))
  await Promise.all(noted)
  assertGoing(run)
}

/** Works on `parallel` items at a time, in order. */
export async function forEachOf<T>(
  run: Run,
  parallel: number,
  items: Iterable<T>,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const queue = items[Symbol.iterator]()
  const worker = async () => {
    // The iterator is shared: each worker takes the next item that nobody has.
    for (let next = queue.next(); !next.done; next = queue.next()) {
      assertGoing(run)
      await work(next.value)
    }
  }
  await together(run, ...Array.from({ length: parallel }, worker))
}

/** Called between steps of a long computation, it lets what else this thread has to do go on now and then. */
export function breather(everyMs = 8): () => Promise<void> {
  let last = performance.now()
  return async () => {
    if (performance.now() - last < everyMs) return
    await new Promise((resolve) => setTimeout(resolve))
    last = performance.now()
  }
}
