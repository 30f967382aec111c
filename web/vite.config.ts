import { defineConfig } from "vite";

// One script and one style sheet, named by their hashes: the page's policy allows no others, and
// a browser may keep them for ever.
export default defineConfig({
  build: {
    outDir: "../src/codellama/server/static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    reportCompressedSize: false,
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8012", "/health": "http://127.0.0.1:8012" } },
});
