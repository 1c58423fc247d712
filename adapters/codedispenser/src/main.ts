import { serveAdapter } from '@market/adapter-kit/serveAdapter'
import { codedispenser } from './adapter.ts'

await serveAdapter(codedispenser, process.env)
