//! Package managers: from a folder, and from an index that the command itself serves on loopback. The proxy's variables are
//! set, so that a tool which sends loopback to the proxy would fail here.

use testkit::require;

use super::Everyday;

/// Makes a wheel in `index/greeting`, and a virtual environment.
const WHEEL: &str = r#"
    mkdir -p index/greeting
    python3 - <<'END'
import zipfile
info = "greeting-1.2.3.dist-info/"
files = {
    "greeting.py": "def say():\n    print('hello from a wheel')\n",
    info + "METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.2.3\n",
    info + "WHEEL": "Wheel-Version: 1.0\nGenerator: by-hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    info + "entry_points.txt": "[console_scripts]\ngreet = greeting:say\n",
}
record = "".join(name + ",,\n" for name in [*files, info + "RECORD"])
with zipfile.ZipFile("index/greeting/greeting-1.2.3-py3-none-any.whl", "w") as wheel:
    for name, text in {**files, info + "RECORD": record}.items():
        wheel.writestr(name, text)
END
    python3 -m venv venv"#;

#[tokio::test]
async fn pip_installs_from_a_folder_and_from_an_index_on_loopback() {
    require!(Bwrap, Venv);
    let script = r"
        venv/bin/pip install --quiet --no-index --find-links index/greeting greeting
        venv/bin/greet
        venv/bin/pip uninstall --quiet --yes greeting
        venv/bin/python -c 'import greeting' 2>/dev/null || echo gone
        python3 -u -m http.server --bind 127.0.0.1 --directory index 0 >served 2>&1 &
        server=$!
        for attempt in {1..200}; do port=$(grep -o 'port [0-9]*' served | cut -d' ' -f2) && break; sleep 0.05; done
        venv/bin/pip install --quiet --index-url http://127.0.0.1:$port/ greeting
        venv/bin/greet
        kill $server
        grep -c 'GET /greeting/greeting-1.2.3-py3-none-any.whl HTTP/1.1. 200' served";
    let said = Everyday::new().work(&format!("{WHEEL}{script}")).await;
    assert_eq!(said, "hello from a wheel\ngone\nhello from a wheel\n1\n");
}

/// Packs `dep` as a tarball.
const TARBALL: &str = r#"
    mkdir dep app && cd dep
    echo '{"name":"greeting","version":"1.0.0","main":"index.js","bin":{"greet":"cli.js"}}' > package.json
    echo 'module.exports = () => "hello from a package";' > index.js
    printf '#!/usr/bin/env node\nconsole.log(require("./index.js")());\n' > cli.js
    npm pack --silent
    cd ../app
    npm init --yes >/dev/null"#;

#[tokio::test]
async fn npm_packs_and_installs_from_a_tarball() {
    require!(Bwrap, Node);
    let script = r#"
        npm install --silent --offline --no-audit --no-fund ../dep/greeting-1.0.0.tgz
        node -e 'console.log(require("greeting")())'
        npx --offline greet
        npm pkg set scripts.test='node -p 6*7'
        npm --silent test"#;
    let said = Everyday::new().work(&format!("{TARBALL}{script}")).await;
    assert_eq!(said, "greeting-1.0.0.tgz\nhello from a package\nhello from a package\n42\n");
}

#[tokio::test]
async fn npm_installs_from_a_registry_on_loopback() {
    require!(Bwrap, Node);
    let script = r#"
        cat > ../registry.js <<'END'
const http = require("http"), fs = require("fs"), crypto = require("crypto");
const tarball = fs.readFileSync("../dep/greeting-1.0.0.tgz");
const integrity = "sha512-" + crypto.createHash("sha512").update(tarball).digest("base64");
const server = http.createServer((request, response) => {
  console.log(request.method, request.url);
  if (request.url === "/greeting.tgz") return response.end(tarball);
  const dist = { tarball: `http://127.0.0.1:${server.address().port}/greeting.tgz`, integrity };
  const versions = { "1.0.0": { name: "greeting", version: "1.0.0", main: "index.js", dist } };
  response.end(JSON.stringify({ name: "greeting", "dist-tags": { latest: "1.0.0" }, versions }));
});
server.listen(0, "127.0.0.1", () => fs.writeFileSync("../port", String(server.address().port)));
END
        node ../registry.js >../served &
        server=$!
        for attempt in {1..200}; do [ -s ../port ] && break; sleep 0.05; done
        # The cache of npm has the tarball since it was packed, and would not ask for it again.
        export npm_config_cache=/tmp/empty
        npm install --silent --no-audit --no-fund --registry http://127.0.0.1:$(cat ../port) greeting
        node -e 'console.log(require("greeting")())'
        kill $server
        cat ../served"#;
    let said = Everyday::new().work(&format!("{TARBALL}{script}")).await;
    assert_eq!(said, "greeting-1.0.0.tgz\nhello from a package\nGET /greeting\nGET /greeting.tgz\n");
}

#[tokio::test]
async fn node_has_its_workers_its_children_and_web_assembly() {
    require!(Bwrap, Node);
    let script = r#"
        cat > work.js <<'END'
const { Worker } = require("worker_threads");
const { execFileSync } = require("child_process");
// A module with one function that gives 42.
const bytes = [0,97,115,109,1,0,0,0,1,5,1,96,0,1,127,3,2,1,0,7,5,1,1,102,0,0,10,6,1,4,0,65,42,11];
console.log(new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array(bytes))).exports.f());
console.log(execFileSync("echo", ["a child"]).toString().trim());
new Worker('require("worker_threads").parentPort.postMessage("a worker")', { eval: true }).on("message", console.log);
END
        node work.js"#;
    assert_eq!(Everyday::new().work(script).await, "42\na child\na worker\n");
}
