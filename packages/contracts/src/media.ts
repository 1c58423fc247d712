export type MediaType = 'image/png' | 'image/jpeg' | 'image/gif' | 'image/webp' | 'image/avif'

/** An image whose parts cannot be told apart, so nobody can say what is left when the metadata is taken out. */
export class MediaStructureError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'MediaStructureError'
  }
}

/**
 * What an upload is by its first bytes, whatever its Content-Type says (catalog.md 5.3); undefined for all that is not
 * one of these five. Text of any kind, SVG included, is none of them.
 */
export function sniffMedia(bytes: Uint8Array): MediaType | undefined {
  if (isPng(bytes)) return 'image/png'
  if (isJpeg(bytes)) return 'image/jpeg'
  if (isGif(bytes)) return 'image/gif'
  if (isWebp(bytes)) return 'image/webp'
  return isAvif(bytes) ? 'image/avif' : undefined
}

/**
 * The image without what a viewer does not need: EXIF (with it the place where a photo was taken, but also which way up
 * it is), XMP, comments, times, previews, and whatever follows the image. Pixels, colour profile and animation stay, byte
 * for byte. GIF and AVIF come back as they are. Throws MediaStructureError, rather than let something slip through, when
 * the bytes are not a complete image of that type.
 */
export function stripMetadata(bytes: Uint8Array, type: MediaType): Uint8Array {
  switch (type) {
    case 'image/jpeg':
      return stripJpeg(bytes)
    case 'image/png':
      return stripPng(bytes)
    case 'image/webp':
      return stripWebp(bytes)
    case 'image/gif':
    case 'image/avif':
      return bytes
  }
}

const PNG_HEADER = '\x89PNG\r\n\x1a\n'
/** The chunks beside the critical ones that change what is shown. */
const PNG_SHOWN = new Set('tRNS cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI bKGD hIST pHYs sPLT acTL fcTL fdAT'.split(' '))
const WEBP_SHOWN = new Set(['VP8 ', 'VP8L', 'VP8X', 'ALPH', 'ANIM', 'ANMF', 'ICCP'])
/** Bits of a VP8X chunk that announce EXIF and XMP. */
const WEBP_METADATA_FLAGS = 0x0c

function isPng(bytes: Uint8Array): boolean {
  return textAt(bytes, 0, 8) === PNG_HEADER && uint32(bytes, 8) === 13 && textAt(bytes, 12, 4) === 'IHDR'
}

function isJpeg(bytes: Uint8Array): boolean {
  return bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff && hasLength(bytes[3])
}

function isGif(bytes: Uint8Array): boolean {
  if (!/^GIF8[79]a$/.test(textAt(bytes, 0, 6))) return false
  // The name alone is plain text: what comes behind the colours must be a GIF's block, too.
  const flags = bytes[10] ?? 0
  const colours = flags & 0x80 ? 3 * 2 ** ((flags & 0x07) + 1) : 0
  const block = bytes[13 + colours]
  return block === 0x21 || block === 0x2c
}

function isWebp(bytes: Uint8Array): boolean {
  return textAt(bytes, 0, 4) === 'RIFF' && /^WEBPVP8[ LX]$/.test(textAt(bytes, 8, 8))
}

/** ISO 14496-12: the first box names the brands; HEIC photos have the same box with other brands. */
function isAvif(bytes: Uint8Array): boolean {
  const size = uint32(bytes, 0)
  if (textAt(bytes, 4, 4) !== 'ftyp' || size < 16 || size > bytes.length || size % 4 !== 0) return false
  for (let at = 8; at < size; at += 4) {
    // Behind the first brand stands its version.
    if (at !== 12 && /^avi[fs]$/.test(textAt(bytes, at, 4))) return true
  }
  return false
}

function stripJpeg(bytes: Uint8Array): Uint8Array {
  if (!isJpeg(bytes)) throw new MediaStructureError('Not a JPEG')
  const kept = collect(bytes.length)
  kept.add(bytes.subarray(0, 2))
  for (let at = 2; ;) {
    if (bytes[at] !== 0xff) throw new MediaStructureError('No JPEG marker where one must be')
    const marker = bytes[at + 1]
    if (marker === 0xff) {
      // Any number of these may fill the space before a marker.
      at += 1
      continue
    }
    if (marker === JPEG_END) {
      // Cameras put further pictures and whole films behind the end, each with metadata of its own.
      kept.add(bytes.subarray(at, at + 2))
      return kept.bytes()
    }
    const size = (bytes[at + 2] ?? 0) * 0x100 + (bytes[at + 3] ?? 0)
    const segmentEnd = at + 2 + size
    if (!hasLength(marker) || segmentEnd > bytes.length) {
      throw new MediaStructureError('A JPEG segment is cut off')
    }
    const end = marker === JPEG_SCAN ? endOfScan(bytes, segmentEnd) : segmentEnd
    if (isShownInJpeg(bytes, at, marker)) kept.add(bytes.subarray(at, end))
    at = end
  }
}

const JPEG_SCAN = 0xda
const JPEG_END = 0xd9

/** Of the markers, those with a segment behind them: not a restart, the start or the end of the image, or a filler. */
function hasLength(marker: number | undefined): marker is number {
  return marker !== undefined && marker >= 0xc0 && marker < 0xff && (marker < 0xd0 || marker > JPEG_END)
}

/** Where the compressed pixels behind a scan's header end: at the next marker that is not part of them. */
function endOfScan(bytes: Uint8Array, from: number): number {
  for (let at = bytes.indexOf(0xff, from); at >= 0; at = bytes.indexOf(0xff, at + 1)) {
    const next = bytes[at + 1]
    if (next === JPEG_END || hasLength(next)) return at
  }
  throw new MediaStructureError('A JPEG without an end')
}

/** JFIF's density, a colour profile and Adobe's note on the colour space are all that decoding takes from APPn. */
function isShownInJpeg(bytes: Uint8Array, at: number, marker: number): boolean {
  const named = (name: string) => textAt(bytes, at + 4, name.length) === name
  if (marker === 0xe0) return named('JFIF\0')
  if (marker === 0xe2) return named('ICC_PROFILE\0')
  if (marker === 0xee) return named('Adobe')
  return marker !== 0xfe && (marker < 0xe0 || marker > 0xef)
}

function stripPng(bytes: Uint8Array): Uint8Array {
  if (!isPng(bytes)) throw new MediaStructureError('Not a PNG')
  const kept = collect(bytes.length)
  kept.add(bytes.subarray(0, 8))
  for (let at = 8; ;) {
    const type = textAt(bytes, at + 4, 4)
    const end = at + 12 + uint32(bytes, at)
    if (end > bytes.length) throw new MediaStructureError('A PNG chunk is cut off')
    // A capital first letter: no picture without it.
    if (/^[A-Z]/.test(type) || PNG_SHOWN.has(type)) kept.add(bytes.subarray(at, end))
    if (type === 'IEND') return kept.bytes()
    at = end
  }
}

function stripWebp(bytes: Uint8Array): Uint8Array {
  if (!isWebp(bytes)) throw new MediaStructureError('Not a WebP')
  const fileEnd = 8 + uint32LittleEndian(bytes, 4)
  if (fileEnd < 20 || fileEnd > bytes.length) throw new MediaStructureError('A WebP is cut off')
  const kept = collect(fileEnd + 1)
  kept.add(bytes.subarray(0, 12))
  for (let at = 12; at < fileEnd;) {
    const type = textAt(bytes, at, 4)
    const end = at + 8 + uint32LittleEndian(bytes, at + 4)
    if (at + 8 > fileEnd || end > fileEnd) throw new MediaStructureError('A WebP chunk is cut off')
    if (WEBP_SHOWN.has(type)) {
      kept.add(type === 'VP8X' ? withoutMetadataFlags(bytes.slice(at, end)) : bytes.subarray(at, end))
      // Chunks start at even places; the last one's padding is sometimes left out.
      if (end % 2 === 1) kept.add(Uint8Array.of(0))
    }
    at = end + (end % 2)
  }
  const stripped = kept.bytes()
  new DataView(stripped.buffer).setUint32(4, stripped.length - 8, true)
  return stripped
}

function withoutMetadataFlags(chunk: Uint8Array): Uint8Array {
  chunk[8] = (chunk[8] ?? 0) & ~WEBP_METADATA_FLAGS
  return chunk
}

/** Room for `size` bytes, filled piece by piece: an image may be millions of pieces, too many for one call's arguments. */
function collect(size: number): { add(piece: Uint8Array): void; bytes(): Uint8Array } {
  const all = new Uint8Array(size)
  let filled = 0
  return {
    add(piece) {
      all.set(piece, filled)
      filled += piece.length
    },
    bytes: () => all.slice(0, filled),
  }
}

/** One character a byte; shorter where the bytes end. */
function textAt(bytes: Uint8Array, at: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + length))
}

/** Bytes beyond the end count as 0. */
function uint32(bytes: Uint8Array, at: number): number {
  const [a = 0, b = 0, c = 0, d = 0] = bytes.subarray(at, at + 4)
  return ((a * 0x100 + b) * 0x100 + c) * 0x100 + d
}

function uint32LittleEndian(bytes: Uint8Array, at: number): number {
  const [a = 0, b = 0, c = 0, d = 0] = bytes.subarray(at, at + 4)
  return ((d * 0x100 + c) * 0x100 + b) * 0x100 + a
}
