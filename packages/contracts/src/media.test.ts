import { bytesToHex, concatBytes, utf8ToBytes } from '@noble/hashes/utils.js'
import { base64 } from '@scure/base'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type MediaType, MediaStructureError, sniffMedia, stripMetadata } from './media.ts'

// Written by Pillow 12.3.0, nothing in them but the picture.
const image = {
  jpeg: base64.decode(
    '/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABQODxIPDRQSEBIXFRQYHjIhHhwcHj0sLiQySUBMS0dARkVQWnNiUFVtVkVGZIhlbXd7gYKBTmCNl4x9lnN+gXz/2wBDARUXFx4aHjshITt8U0ZTfHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHz/wAARCAAQABADASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAABQT/xAAZEAACAwEAAAAAAAAAAAAAAAAABAMhMWH/xAAVAQEBAAAAAAAAAAAAAAAAAAACBP/EABgRAAMBAQAAAAAAAAAAAAAAAAACBBES/9oADAMBAAIRAxEAPwACBPgjAlwvXTyhNdLKI1bsUdmH/9k=',
  ),
  progressiveJpeg: base64.decode(
    '/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABQODxIPDRQSEBIXFRQYHjIhHhwcHj0sLiQySUBMS0dARkVQWnNiUFVtVkVGZIhlbXd7gYKBTmCNl4x9lnN+gXz/2wBDARUXFx4aHjshITt8U0ZTfHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHz/wgARCAAQABADASIAAhEBAxEB/8QAFgABAQEAAAAAAAAAAAAAAAAABAMF/8QAFQEBAQAAAAAAAAAAAAAAAAAAAQP/2gAMAwEAAhADEAAAAc9N1Rf/xAAWEAEBAQAAAAAAAAAAAAAAAAACAAH/2gAIAQEAAQUCwWCIiL//xAAVEQEBAAAAAAAAAAAAAAAAAAADAP/aAAgBAwEBPwEWv//EABYRAQEBAAAAAAAAAAAAAAAAAAEAEf/aAAgBAgEBPwEdv//EABQQAQAAAAAAAAAAAAAAAAAAACD/2gAIAQEABj8CH//EABQQAQAAAAAAAAAAAAAAAAAAACD/2gAIAQEAAT8hFB//2gAMAwEAAgADAAAAEKP/xAAVEQEBAAAAAAAAAAAAAAAAAAAAEf/aAAgBAwEBPxCD/8QAFBEBAAAAAAAAAAAAAAAAAAAAAP/aAAgBAgEBPxAf/8QAFxABAAMAAAAAAAAAAAAAAAAAACExYf/aAAgBAQABPxDJmohTD//Z',
  ),
  /** Begins with Adobe's note: without it every viewer shows the wrong colours. */
  cmykJpeg: base64.decode(
    '/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAbEhQXFBEbFxYXHhwbIChCKyglJShROj0wQmBVZWRfVV1baniZgWpxkHNbXYW1hpCeo6utq2eAvMm6pseZqKuk/8AAFAgAEAAQBEMRAE0RAFkRAEsRAP/EABcAAQEBAQAAAAAAAAAAAAAAAAAGBQT/xAAeEAABAwUBAQAAAAAAAAAAAAAABAVBAgMSFGERIf/aAA4EQwBNAFkASwAAPwDKb4MrQ4TtujIpimb4Ghw6LaXKATLfBTaHAjoy8BTN8DQ4baNLl58B/9k=',
  ),
  png: base64.decode(
    'iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAgMAAABinRfyAAAADFBMVEV40GJ4iECwMCEwMAlj2H7eAAAAOElEQVR42lXGsQ2AMBAEwfGLFqFJXASlOKcBRxwRktlgtC1OhY/8b3Zl5Go5qAfblF4jnR11W3sBotoQx7Mnc/cAAAAASUVORK5CYII=',
  ),
  gif: base64.decode(
    'R0lGODdhEAAQAIEAAHjQYniIQLAwITAwCSwAAAAAEAAQAEAISgAHCBwoUIDBgwYJBljIsOFCggMRSmwIoKLFixUhRpSYEKJDiQIdUsRIsmRGjQM4doSocqXClh5FBjg4UKbIASJNAgigs6dPAAEBADs=',
  ),
  lossyWebp: base64.decode(
    'UklGRkIAAABXRUJQVlA4IDYAAADQAQCdASoQABAABUB8JbACdADO8BdHAAD+7t6hPK4gjP1V6rf3sNSo5vLbD3N9uk3aS94AAAA=',
  ),
  losslessWebp: base64.decode('UklGRiAAAABXRUJQVlA4TBQAAAAvA8AAEAdQgVQIIAAKmpLFiIj+Bw=='),
  movingWebp: base64.decode(
    'UklGRpQAAABXRUJQVlA4WAoAAAACAAAAAwAAAwAAQU5JTQYAAAAAAAAAAABBTk1GMAAAAAAAAAAAAAMAAAMAAAAAAAJWUDggGAAAADABAJ0BKgQABAABQCYlpAADcAD+/TZoAEFOTUYwAAAAAAAAAAAAAwAAAwAAAAAAAFZQOCAYAAAANAEAnQEqBAAEAAAAJiWkAANwAP78yrAA',
  ),
  /** With a colour profile of 13 bytes, EXIF and XMP. */
  taggedWebp: base64.decode(
    'UklGRpAAAABXRUJQVlA4WAoAAAAsAAAADwAADwAASUNDUA0AAABhYmNhYmNhYmNhYmN4AFZQOCA2AAAA0AEAnQEqEAAQAAVAfCWwAnQAzvAXRwAA/u7eoTyuIIz9Veq397DUqOby2w9zfbpN2kveAAAARVhJRgoAAABJSSoACAAAAAAAWE1QIAwAAAA8eDp4bXBtZXRhLz4=',
  ),
  avif: base64.decode(
    'AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUIAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAALQAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAAEAAAABAAAAAQcGl4aQAAAAADCAgIAAAADGF2MUOBAAwAAAAAE2NvbHJuY2x4AAEADQAGgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAANW1kYXQSAAoJGAz/2iAhoNCAMh4dh4eFndxxxwLFAAB1c7KM7mHG2UgVHPU/CRxOucA=',
  ),
}
const typeOf: Record<keyof typeof image, MediaType> = {
  jpeg: 'image/jpeg',
  progressiveJpeg: 'image/jpeg',
  cmykJpeg: 'image/jpeg',
  png: 'image/png',
  gif: 'image/gif',
  lossyWebp: 'image/webp',
  losslessWebp: 'image/webp',
  movingWebp: 'image/webp',
  taggedWebp: 'image/webp',
  avif: 'image/avif',
}
const kinds = Object.keys(image) as Array<keyof typeof image>
const types = [...new Set(Object.values(typeOf))]

const insert = (bytes: Uint8Array, at: number, ...pieces: Uint8Array[]) =>
  concatBytes(bytes.subarray(0, at), ...pieces, bytes.subarray(at))
const indexOf = (bytes: Uint8Array, hex: string, from = 0) => {
  const at = bytesToHex(bytes).indexOf(hex, 2 * from)
  expect(at % 2).toBe(0)
  return at / 2
}
const big = (value: number, size: number) =>
  Uint8Array.from({ length: size }, (_, index) => value >>> (8 * (size - 1 - index)))
const little = (value: number) => big(value, 4).toReversed()

describe('what an upload is', () => {
  it.each(kinds)('recognises a %s', (kind) => {
    expect(sniffMedia(image[kind])).toBe(typeOf[kind])
  })

  it('recognises AVIF among the brands of an image of several kinds, and no HEIC', () => {
    const ftyp = (...brands: string[]) =>
      utf8ToBytes(
        `\0\0\0${String.fromCharCode(16 + 4 * (brands.length - 1))}ftyp${brands[0]}\0\0\0\0${brands.slice(1).join('')}`,
      )
    expect(sniffMedia(ftyp('mif1', 'miaf', 'avif'))).toBe('image/avif')
    expect(sniffMedia(ftyp('avis', 'msf1'))).toBe('image/avif')
    expect(sniffMedia(ftyp('mif1', 'heic'))).toBeUndefined()
    expect(sniffMedia(ftyp('isom', 'mp42'))).toBeUndefined()
    // A version that reads like a brand.
    const heic = ftyp('mif1', 'heic')
    heic.set(utf8ToBytes('avif'), 12)
    expect(sniffMedia(heic)).toBeUndefined()
    // Longer than what is there.
    expect(sniffMedia(ftyp('avif', 'miaf').subarray(0, 19))).toBeUndefined()
    expect(sniffMedia(ftyp('mif1', 'miaf', 'avif').subarray(0, 20))).toBeUndefined()
  })

  it.each([
    ['HTML', '<!doctype html><html><script>alert(1)</script></html>'],
    ['HTML behind a byte order mark', '\uFEFF<html></html>'],
    ['SVG', '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script/></svg>'],
    ['SVG without a head', '<svg xmlns="http://www.w3.org/2000/svg"/>'],
    ['JSON', '{"@type":"Product"}'],
    ['a script that calls itself a GIF', 'GIF89a/*<svg onload=alert(1)>*/=1;'],
    ['a page that calls itself a GIF', 'GIF89a<html><body><h1>Hello, everybody</h1></body></html>'],
    ['a sound', 'RIFF\0\0\0\0WAVEfmt '],
    ['a PDF', '%PDF-1.7'],
    ['a bitmap', 'BM\x36\x01\0\0\0\0\0\0\x36\0\0\0'],
    ['the name of a PNG with a page behind it', '\x89PNG\r\n\x1a\n<html>'],
    ['nothing', ''],
  ])('catalog:53 does not take %s for an image', (_what, text) => {
    expect(sniffMedia(utf8ToBytes(text))).toBeUndefined()
    expect(sniffMedia(Uint8Array.from(text, (character) => character.charCodeAt(0)))).toBeUndefined()
  })

  it('takes no JPEG without a segment, and no image of which only the name is there', () => {
    for (const head of ['ffd8ffd9', 'ffd8ff00', 'ffd8ffff', 'ffd8ff', '89504e470d0a1a0a', '524946460000000057454250']) {
      expect(sniffMedia(Uint8Array.from(head.match(/../g)!, (hex) => Number.parseInt(hex, 16)))).toBeUndefined()
    }
  })

  it('takes no text for an image, whatever it begins with', () => {
    const starts = fc.constantFrom('<', '{', '[', ' ', '"', 'GIF', 'RIFF', 'ftyp', 'PNG', 'JFIF', '')
    fc.assert(
      fc.property(starts, fc.string({ unit: 'grapheme' }), (start, text) => {
        expect(sniffMedia(utf8ToBytes(start + text))).toBeUndefined()
      }),
      { numRuns: 1_000 },
    )
  })
})

const segment = (marker: number, content: string) =>
  concatBytes(Uint8Array.of(0xff, marker), big(2 + content.length, 2), utf8ToBytes(content))

describe('metadata of a JPEG', () => {
  const metadata = [
    segment(0xe1, 'Exif\0\0MM\0*GPS'),
    segment(0xe1, 'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>'),
    segment(0xe0, 'JFXX\0\x10 a small copy of the picture before it was cut'),
    segment(0xe2, 'MPF\0MM\0*'),
    segment(0xe2, 'FPXR\0'),
    segment(0xe5, ''),
    segment(0xed, 'Photoshop 3.0\x008BIM'),
    segment(0xef, 'x'),
    segment(0xfe, 'made by me'),
  ]
  const profile = segment(0xe2, 'ICC_PROFILE\0\x01\x01a profile')

  it.each(['jpeg', 'progressiveJpeg', 'cmykJpeg'] as const)('goes, and the %s stays as it was', (kind) => {
    const plain = image[kind]
    expect(stripMetadata(plain, 'image/jpeg')).toEqual(plain)
    expect(stripMetadata(insert(plain, 2, ...metadata), 'image/jpeg')).toEqual(plain)
    // Also from between the scans of a progressive one, and with fillers before the marker.
    const lastScan = bytesToHex(plain).lastIndexOf('ffda') / 2
    expect(stripMetadata(insert(plain, lastScan, ...metadata), 'image/jpeg')).toEqual(plain)
    const filler = Uint8Array.of(0xff, 0xff)
    expect(stripMetadata(insert(plain, 2, metadata[0]!, filler, metadata[1]!, filler), 'image/jpeg')).toEqual(plain)
  })

  it('leaves the colour profile', () => {
    const profiled = insert(image.jpeg, 20, profile)
    expect(stripMetadata(insert(profiled, 20, metadata[0]!), 'image/jpeg')).toEqual(profiled)
  })

  it('goes with everything behind the end of the image', () => {
    const film = insert(image.cmykJpeg, 2, metadata[0]!)
    expect(stripMetadata(concatBytes(image.jpeg, film, utf8ToBytes('mp4')), 'image/jpeg')).toEqual(image.jpeg)
  })

  it('does not end the pixels at a byte of them or at a restart', () => {
    const pixels = indexOf(image.jpeg, 'ffda') + 14
    const stuffed = insert(image.jpeg, pixels, Uint8Array.of(0xff, 0x00, 0x12, 0xff, 0xd0, 0xff, 0xd7, 0xff, 0x00))
    expect(stripMetadata(stuffed, 'image/jpeg')).toEqual(stuffed)
  })
})

const crc = Uint8Array.of(1, 2, 3, 4)
const pngChunk = (type: string, content: string) =>
  concatBytes(big(content.length, 4), utf8ToBytes(type), utf8ToBytes(content), crc)

describe('metadata of a PNG', () => {
  const metadata = ['eXIf', 'tEXt', 'zTXt', 'iTXt', 'tIME', 'zxIf', 'caBX', 'prVW'].map((type) =>
    pngChunk(type, 'secret'),
  )
  const shown = ['gAMA', 'iCCP', 'tRNS', 'pHYs', 'acTL', 'fdAT', 'sRGB'].map((type) => pngChunk(type, 'colours'))
  const pixels = indexOf(image.png, '49444154') - 4
  const end = indexOf(image.png, '49454e44') - 4

  it('goes, wherever it stands, and the picture stays as it was', () => {
    expect(stripMetadata(image.png, 'image/png')).toEqual(image.png)
    expect(stripMetadata(insert(image.png, pixels, ...metadata), 'image/png')).toEqual(image.png)
    expect(stripMetadata(insert(image.png, end, ...metadata), 'image/png')).toEqual(image.png)
    expect(stripMetadata(concatBytes(image.png, ...metadata), 'image/png')).toEqual(image.png)
  })

  it('leaves what changes the picture', () => {
    const coloured = insert(image.png, pixels, ...shown)
    expect(stripMetadata(insert(coloured, pixels, ...metadata), 'image/png')).toEqual(coloured)
  })
})

const webpChunk = (type: string, content: string) =>
  concatBytes(utf8ToBytes(type), little(content.length), utf8ToBytes(content + '\0'.repeat(content.length % 2)))
const riff = (...chunks: Uint8Array[]) => {
  const content = concatBytes(utf8ToBytes('WEBP'), ...chunks)
  return concatBytes(utf8ToBytes('RIFF'), little(content.length), content)
}

describe('metadata of a WebP', () => {
  it.each(['lossyWebp', 'losslessWebp', 'movingWebp'] as const)('goes, and the %s stays as it was', (kind) => {
    const plain = image[kind]
    expect(stripMetadata(plain, 'image/webp')).toEqual(plain)
    const chunks = plain.subarray(12)
    const tagged = riff(chunks, webpChunk('EXIF', 'II*'), webpChunk('XMP ', '<x:xmpmeta/>'), webpChunk('note', 'me'))
    expect(stripMetadata(tagged, 'image/webp')).toEqual(plain)
    expect(stripMetadata(concatBytes(tagged, utf8ToBytes('behind it')), 'image/webp')).toEqual(plain)
  })

  it('goes together with its announcement; the colour profile and the size of the file are right', () => {
    const head = image.taggedWebp.slice(12, 30)
    expect(head[8]).toBe(0x2c)
    head[8] = 0x20
    const profile = webpChunk('ICCP', 'abcabcabcabcx')
    expect(stripMetadata(image.taggedWebp, 'image/webp')).toEqual(riff(head, profile, image.lossyWebp.subarray(12)))
  })

  it('is not looked for in a file that calls itself shorter than its head', () => {
    for (let size = 0; size < 12; size += 1) {
      const short = insert(image.lossyWebp, 0)
      short.set(little(size), 4)
      expect(() => stripMetadata(short, 'image/webp')).toThrow(MediaStructureError)
    }
  })

  it('pads a last chunk of odd length whose padding was left out', () => {
    const unpadded = concatBytes(utf8ToBytes('ALPH'), little(3), utf8ToBytes('abc'))
    const chunks = image.lossyWebp.subarray(12)
    expect(stripMetadata(riff(chunks, unpadded), 'image/webp')).toEqual(riff(chunks, webpChunk('ALPH', 'abc')))
  })
})

describe('stripping', () => {
  it('gives GIF and AVIF back as they are', () => {
    expect(stripMetadata(image.gif, 'image/gif')).toBe(image.gif)
    expect(stripMetadata(image.avif, 'image/avif')).toBe(image.avif)
  })

  it('refuses an image of another type', () => {
    for (const type of ['image/png', 'image/jpeg', 'image/webp'] as const) {
      for (const kind of kinds.filter((each) => typeOf[each] !== type)) {
        expect(() => stripMetadata(image[kind], type)).toThrow(MediaStructureError)
      }
    }
  })

  it.each(kinds.filter((kind) => /jpeg|png|webp/.test(typeOf[kind])))('refuses a %s cut off anywhere', (kind) => {
    for (let length = 0; length < image[kind].length; length += 1) {
      expect(() => stripMetadata(image[kind].subarray(0, length), typeOf[kind])).toThrow(MediaStructureError)
    }
  })

  it.each([
    ['a JPEG segment of length 1', insert(image.jpeg, 2, Uint8Array.of(0xff, 0xe1, 0, 1))],
    ['a JPEG segment that ends beyond the file', insert(image.jpeg, 2, Uint8Array.of(0xff, 0xe1, 0xff, 0xff))],
    ['a restart where a JPEG segment must be', insert(image.jpeg, 20, Uint8Array.of(0xff, 0xd0))],
    ['other bytes where a JPEG segment must be', insert(image.jpeg, 20, Uint8Array.of(0x12))],
  ])('refuses %s', (_what, bytes) => {
    expect(() => stripMetadata(bytes, 'image/jpeg')).toThrow(MediaStructureError)
  })

  it('of any bytes ends, and fails with one error only', () => {
    const strip = (bytes: Uint8Array) => {
      sniffMedia(bytes)
      for (const type of types) {
        try {
          const stripped = stripMetadata(bytes, type)
          expect(sniffMedia(stripped)).toBe(sniffMedia(bytes))
          // Nothing is left to strip.
          expect(bytesToHex(stripMetadata(stripped, type))).toBe(bytesToHex(stripped))
        } catch (error) {
          expect(error).toBeInstanceOf(MediaStructureError)
        }
      }
    }
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), strip), { numRuns: 1_000 })
    const patch = fc.record({ at: fc.nat(), cut: fc.nat(3), put: fc.uint8Array({ maxLength: 6 }) })
    fc.assert(
      fc.property(fc.constantFrom(...kinds), fc.array(patch, { maxLength: 4 }), (kind, patches) => {
        let bytes = image[kind]
        for (const { at, cut, put } of patches) {
          const place = at % (bytes.length + 1)
          bytes = concatBytes(bytes.subarray(0, place), put, bytes.subarray(place + cut))
        }
        strip(bytes)
      }),
      { numRuns: 2_000 },
    )
  })

  it('of millions of segments takes no more than its time', () => {
    const length = 2_000_000
    const segments = Uint8Array.from({ length: 4 * length }, (_, index) => [0xff, 0xdb, 0, 2][index % 4]!)
    const bytes = insert(image.jpeg, 20, segments)
    expect(stripMetadata(bytes, 'image/jpeg').length).toBe(bytes.length)
    const fillers = insert(image.jpeg, 20, new Uint8Array(8_000_000).fill(0xff))
    expect(stripMetadata(fillers, 'image/jpeg')).toEqual(image.jpeg)
  })
})
