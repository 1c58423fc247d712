import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import * as z from 'zod'
import { env, readConfig, Secret } from './config.ts'
import { StartupError } from './errors.ts'

const Schema = z.object({
  PORT: env.int(1, 65535, 80),
  KEY: env.secret('is required: a key', 8),
  URL: env.url().optional(),
  HOSTS: env.list().optional(),
})
const problems = (environment: NodeJS.ProcessEnv) => {
  try {
    readConfig(Schema, environment)
    return 'none'
  } catch (error) {
    expect(error).toBeInstanceOf(StartupError)
    return (error as Error).message
  }
}

describe('readConfig', () => {
  it('reads what is set, and takes blank for unset', () => {
    const config = readConfig(Schema, {
      KEY: ' long enough ',
      PORT: ' ',
      URL: 'http://h/',
      ON: 'true',
      HOSTS: 'a, b,,',
    })
    expect(config).toMatchObject({ PORT: 80, URL: 'http://h', HOSTS: ['a', 'b'] })
    expect(config.KEY.reveal()).toBe('long enough')
  })

  it('names everything that is wrong at once, and repeats no value', () => {
    const message = problems({ PORT: '80x', KEY: 'short', URL: 'ftp://h' })
    for (const part of [
      'PORT must be a whole number from 1 to 65535',
      'KEY must be at least 8',
      'URL must be an http',
    ]) {
      expect(message).toContain(part)
    }
    expect(message).not.toContain('short')
    expect(problems({})).toBe('configuration: KEY is required: a key. See .env.example')
    expect(problems({ KEY: 'long enough', PORT: '0' })).toContain('PORT')
    expect(problems({ KEY: ';;;; put a key here' })).toContain('placeholder')
  })
})

describe('Secret', () => {
  it('shows itself to nobody who does not ask', () => {
    const secret = new Secret('hunter2')
    for (const text of [
      String(secret),
      `${secret}`,
      JSON.stringify({ secret }),
      inspect(secret),
      inspect({ deep: [secret] }),
    ]) {
      expect(text).toContain('[redacted]')
      expect(text).not.toContain('hunter2')
    }
    expect(secret.reveal()).toBe('hunter2')
  })
})
