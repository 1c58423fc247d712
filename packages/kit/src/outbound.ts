export class TooLargeError extends Error {}

/** The whole body, refused with `TooLargeError` past `maxBytes`, by its declared length or by counting; never buffered beyond. */
export async function readCapped(response: Response, maxBytes: number): Promise<Uint8Array> {
  const declared = Number(response.headers.get('content-length') ?? 0)
  if (declared > maxBytes) {
    await response.body?.cancel()
    throw new TooLargeError(`answer exceeds ${maxBytes} bytes`)
  }
  const parts: Uint8Array[] = []
  let size = 0
  // Leaving the loop early cancels the stream, which closes the connection.
  for await (const part of response.body ?? []) {
    size += part.length
    if (size > maxBytes) throw new TooLargeError(`answer exceeds ${maxBytes} bytes`)
    parts.push(part)
  }
  return Buffer.concat(parts)
}
