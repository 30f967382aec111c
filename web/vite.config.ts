import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

/** The licences of the libraries that are part of what is built, beside it. */
function notice(): Plugin {
  return {
    name: "notice",
    generateBundle(_, bundle) {
      const folders = new Set<string>();
      for (const chunk of Object.values(bundle)) {
        if (chunk.type !== "chunk") continue;
        for (const id of chunk.moduleIds) {
          const found = /^(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(id);
          if (found?.[1]) folders.add(found[1]);
        }
      }
      const parts = [...folders].map((folder) => {
        const { name, version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Record<string, string>;
        const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
        if (file === undefined || !existsSync(join(folder, file))) this.error(`${name} has no licence text`);
        return `${name} ${version} (${license})\n\n${readFileSync(join(folder, file ?? ""), "utf8").trim()}\n`;
      });
      const source = `The playground's script contains these libraries.\n\n${parts.sort().join(`\n${"-".repeat(72)}\n\n`)}`;
      this.emitFile({ type: "asset", fileName: "NOTICE.txt", source });
    },
  };
}

// One script and one style sheet, named by their hashes: the page's policy allows no others, and
// a browser may keep them for ever.
export default defineConfig({
  plugins: [notice()],
  build: {
    outDir: "../src/codellama/server/static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    reportCompressedSize: false,
    chunkSizeWarningLimit: 700,
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8012", "/health": "http://127.0.0.1:8012" } },
});
