FROM node:22-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json cluster.ts ./
COPY src src
# The sources of the service are all that the image needs.
RUN npx tsc -p tsconfig.json && npm prune --omit=dev

FROM node:22-bookworm-slim
ENV NODE_ENV=production
# Without DATABASE_URL it would listen inside the container only.
ENV HOST=0.0.0.0
WORKDIR /app
COPY --from=build /app/package.json ./
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
# Where the embedded database lies when DATABASE_URL is not set.
RUN mkdir .taskwire && chown node:node .taskwire
USER node
EXPOSE 9002
# Up while it takes work, also without Redis.
HEALTHCHECK --interval=10s --timeout=12s --start-period=90s CMD ["node", "dist/src/cli/main.js", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["node", "--max-semi-space-size=4", "dist/src/cli/main.js"]
CMD ["start"]
