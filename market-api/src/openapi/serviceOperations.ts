import { Health } from '@market/contracts/marketApi/health'
import { Challenge, Jwks, SignedIn } from '@market/contracts/marketApi/signIn'
import { ChallengeInput, VerifyInput } from '../signIn/routes.ts'
import { type Errors, JSON_TYPE, type Operation } from './operation.ts'

const UPSTREAM = 'Where another service signs people in for the market, its answers are handed on as they are.'
const upstream: Errors = { 404: ['not_found'], 502: ['sign_in_unavailable'], 504: ['sign_in_unavailable'] }

export const signInOperations: Operation[] = [
  {
    id: 'createChallenge',
    method: 'post',
    path: '/api/auth/challenge',
    tag: 'Signing in',
    summary: 'Ask for a text to sign',
    description: `For the page that asks (\`Origin\`), if it may sign people in. \`statement\` is one line of at most 200 printable characters; \`expirationMinutes\` is cut to 1 to 30, and 10 without it. ${UPSTREAM}`,
    body: {
      type: JSON_TYPE,
      schema: ChallengeInput,
      example: { address: '0x7e5f4552091a69125d5dfcb7b8c2659029395bdf', chainId: 100 },
    },
    answers: { 200: { description: 'The text; it can be used once.', type: JSON_TYPE, schema: Challenge } },
    errors: {
      ...upstream,
      400: [
        'invalid_json',
        'invalid_request',
        'incomplete_body',
        'invalid_chain',
        'invalid_statement',
        'domain_not_allowed',
      ],
      413: ['body_too_large'],
      429: ['too_many_sign_ins'],
    },
  },
  {
    id: 'verifyChallenge',
    method: 'post',
    path: '/api/auth/verify',
    tag: 'Signing in',
    summary: 'Turn a signature into a token',
    description: `Of a key (EIP-191) or a contract account (ERC-1271, ERC-6492). ${UPSTREAM}`,
    body: {
      type: JSON_TYPE,
      schema: VerifyInput,
      example: { challengeId: '2f1c1f6e-9a51-4f0e-8d0b-5f8a4b0c7d3e', signature: `0x${'00'.repeat(65)}` },
    },
    answers: { 200: { description: 'The token.', type: JSON_TYPE, schema: SignedIn } },
    errors: {
      400: ['invalid_json', 'invalid_request', 'incomplete_body'],
      401: ['sign_in_refused'],
      404: ['not_found'],
      413: ['body_too_large'],
      415: ['unsupported_media_type'],
      429: ['too_many_sign_ins'],
      502: ['chain_unavailable', 'sign_in_unavailable'],
      503: ['busy'],
      504: ['chain_unavailable', 'sign_in_unavailable'],
    },
  },
  {
    id: 'getKeys',
    method: 'get',
    path: '/.well-known/jwks.json',
    aliases: ['/api/auth/jwks.json'],
    tag: 'Signing in',
    summary: 'Read the keys that tokens are verified with',
    answers: { 200: { description: 'The keys.', type: JSON_TYPE, schema: Jwks, headers: ['Cache-Control'] } },
    errors: {},
  },
]

export const serviceOperations: Operation[] = [
  {
    id: 'getHealth',
    method: 'get',
    path: '/health',
    tag: 'Service',
    summary: 'Ask whether the market works',
    answers: {
      200: { description: 'It does.', type: JSON_TYPE, schema: Health },
      503: { description: 'The database does not answer.', type: JSON_TYPE, schema: Health },
    },
    errors: {},
    unlimited: true,
  },
  {
    id: 'getReadiness',
    method: 'get',
    path: '/health/ready',
    tag: 'Service',
    summary: 'Ask whether this process should get requests',
    answers: {
      200: { description: '`Healthy`.', type: 'text/plain', headers: ['Cache-Control'] },
      503: { description: '`Unhealthy`, and what is not in order.', type: 'text/plain', headers: ['Cache-Control'] },
    },
    errors: {},
    unlimited: true,
  },
  {
    id: 'getMetrics',
    method: 'get',
    path: '/metrics',
    tag: 'Service',
    summary: 'Read the figures of this process',
    answers: { 200: { description: 'Prometheus text.', type: 'text/plain' } },
    errors: {},
    unlimited: true,
  },
  {
    id: 'getDocument',
    method: 'get',
    path: '/openapi.json',
    aliases: ['/openapi/v1.json', '/docs/v1/swagger.json'],
    tag: 'Service',
    summary: 'Read this document',
    headers: ['If-None-Match'],
    answers: {
      200: { description: 'OpenAPI 3.1.', type: JSON_TYPE, headers: ['ETag', 'Cache-Control'] },
      304: { description: 'What the client has is still right.', headers: ['ETag', 'Cache-Control'] },
    },
    errors: {},
  },
  {
    id: 'getReference',
    method: 'get',
    path: '/docs',
    tag: 'Service',
    summary: 'Read this document as a page',
    headers: ['If-None-Match'],
    answers: {
      200: { description: 'HTML.', type: 'text/html', headers: ['ETag', 'Cache-Control'] },
      304: { description: 'What the client has is still right.', headers: ['ETag', 'Cache-Control'] },
    },
    errors: {},
  },
]
