# One small package of each kind, as its registry serves it: static files.
import hashlib, io, json, os, subprocess, tarfile, zipfile

SITE = "https://files.example"


def write(path, data):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def tarball(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def zipped(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return packed.getvalue()


# pip: a page of links, a wheel
info = "greeting-1.0.dist-info/"
wheel = {
    "greeting.py": "TEXT = 'hello from pip'\n",
    info + "METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
    info + "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
record = "".join(name + ",,\n" for name in [*wheel, info + "RECORD"])
name = "greeting-1.0-py3-none-any.whl"
write("simple/greeting/" + name, zipped({**wheel, info + "RECORD": record}))
write("simple/greeting/index.html", f'<a href="{name}">{name}</a>')

# npm: a document, a tarball
manifest = {"name": "greeting", "version": "1.0.0", "main": "index.js"}
packed = tarball({"package/package.json": json.dumps(manifest), "package/index.js": "module.exports = 'hello from npm'\n"})
write("npm-files/greeting.tgz", packed)
dist = {"tarball": SITE + "/npm-files/greeting.tgz", "shasum": hashlib.sha1(packed).hexdigest()}
document = {"name": "greeting", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {**manifest, "dist": dist}}}
write("npm/greeting", json.dumps(document))

# Go: a list, and three files for each version
versions, module = "go/example.org/greeting/@v/", "module example.org/greeting\n"
inside = "example.org/greeting@v1.0.0/"
write(versions + "list", "v1.0.0\n")
write(versions + "v1.0.0.info", json.dumps({"Version": "v1.0.0", "Time": "2020-01-01T00:00:00Z"}))
write(versions + "v1.0.0.mod", module)
write(versions + "v1.0.0.zip", zipped({inside + "go.mod": module, inside + "greeting.go": "package greeting\n\n// hello from go\n"}))

# cargo: a configuration, a line for each version, a tarball
crate = tarball({
    "greeting-1.0.0/Cargo.toml": '[package]\nname = "greeting"\nversion = "1.0.0"\n',
    "greeting-1.0.0/src/lib.rs": "// hello from cargo\n",
})
write("cargo/config.json", json.dumps({"dl": SITE + "/cargo/crates/{crate}-{version}.crate"}))
line = {"name": "greeting", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False}
write("cargo/gr/ee/greeting", json.dumps({**line, "cksum": hashlib.sha256(crate).hexdigest()}) + "\n")
write("cargo/crates/greeting-1.0.0.crate", crate)

# apt: a package, a list of packages, and what vouches for the list
control = "Package: greeting\nVersion: 1.0\nArchitecture: all\nMaintainer: n <n@e>\nDescription: says hello\n"
write("build/DEBIAN/control", control)
write("build/usr/share/greeting", "hello from apt\n")
os.makedirs("apt", exist_ok=True)
subprocess.run(["dpkg-deb", "--build", "-Zgzip", "--root-owner-group", "build", "apt/greeting_1.0_all.deb"], check=True, stdout=subprocess.DEVNULL)
with open("apt/greeting_1.0_all.deb", "rb") as file:
    package = file.read()
digest = hashlib.sha256(package).hexdigest()
listed = f"{control}Filename: ./greeting_1.0_all.deb\nSize: {len(package)}\nSHA256: {digest}\n\n"
write("apt/Packages", listed)
write("apt/Release", f"Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {hashlib.sha256(listed.encode()).hexdigest()} {len(listed)} Packages\n")
