#!/usr/bin/python3
"""Docker's command line, as far as it is used here, in front of podman's containers: no engine of Docker's can run in a test.

As strict as the client: an option that Docker does not have is refused as Docker refuses it, nothing of the caller's
descriptors but the first three comes any further, and a container goes on when the client is killed.
"""
import json
import os
import subprocess
import sys

# docker run (28.2), those with a value and those without.
VALUED = """add-host annotation attach blkio-weight cap-add cap-drop cgroup-parent cgroupns cidfile cpu-period cpu-quota cpu-shares cpus
cpuset-cpus cpuset-mems detach-keys device device-cgroup-rule dns dns-option dns-search domainname entrypoint env env-file expose
gpus group-add health-cmd health-interval health-retries health-start-interval health-start-period health-timeout hostname ip ip6
ipc isolation label label-file link log-driver log-opt mac-address memory memory-reservation memory-swap memory-swappiness mount
name network network-alias oom-score-adj pid pids-limit platform publish pull restart runtime security-opt shm-size stop-signal
stop-timeout storage-opt sysctl tmpfs ulimit user userns uts volume volume-driver volumes-from workdir""".split()
FLAGS = "detach help init interactive no-healthcheck oom-kill-disable privileged publish-all read-only rm sig-proxy tty".split()
MOUNT_KEYS = "type source src target dst destination readonly ro bind-propagation bind-recursive tmpfs-size tmpfs-mode".split()
VALUES = {"pid": ["host"], "uts": ["host"], "userns": ["host"], "cgroupns": ["host", "private"], "ipc": ["none", "private", "shareable", "host"]}


def fail(text, code):
    print(text, file=sys.stderr)
    sys.exit(code)


def podman(words, **more):
    os.closerange(3, 1024)
    return subprocess.run(["podman", *words], stdin=subprocess.DEVNULL, **more)


def asked(words):
    done = podman(words, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def options(command, words, valued, flags, code):
    """The options before the first word that is none, and what follows."""
    found, rest = [], list(words)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        name, given, value = word[2:].partition("=") if word.startswith("--") else ("", "", "")
        if name in valued:
            value = value if given else (rest.pop(0) if rest else fail(f"flag needs an argument: --{name}", code))
        elif name not in flags or given and value not in ("true", "false"):
            fail(f"unknown flag: {word}\n\nUsage:  docker {command} [OPTIONS]\n\nRun 'docker {command} --help' for more information", code)
        found.append((name, value))
    return found, rest


def check(name, value):
    if name in VALUES and value not in VALUES[name]:
        fail(f"docker: --{name}: invalid {name.upper()} mode\n\nRun 'docker run --help' for more information", 125)
    if name == "mount":
        # A list of comma-separated values, in which a whole field may be quoted.
        import csv
        for field in next(csv.reader([value])):
            if field.partition("=")[0] not in MOUNT_KEYS:
                fail(f"invalid argument \"{value}\" for \"--mount\" flag: unexpected key in '{field}'", 125)


def run(words):
    found, rest = options("run", words, VALUED, FLAGS, 125)
    for name, value in found:
        check(name, value)
    if not rest:
        fail("docker: 'docker run' requires at least 1 argument", 125)
    if ("pull", "never") in found and podman(["image", "exists", rest[0]]).returncode:
        fail(f"docker: Error response from daemon: No such image: {rest[0]}\n\nRun 'docker run --help' for more information", 125)
    # What podman does where Docker does not.
    extra = ["--http-proxy=false", "--systemd=false"]
    os.closerange(3, 1024)
    client = subprocess.Popen(["podman", "run", *extra, *words], stdin=subprocess.DEVNULL, start_new_session=True)
    sys.exit(client.wait())


def info(words):
    if words != ["--format", "{{json .}}"]:
        fail(f"this stand-in does not know docker info {words}", 1)
    said = json.loads(asked(["info", "--format", "json"]) or fail("Cannot connect to the Docker daemon", 1))
    controllers = said["host"]["cgroupControllers"]
    print(json.dumps({
        "ServerVersion": "28.2.2",
        "CgroupVersion": said["host"]["cgroupVersion"].removeprefix("v"),
        "OSType": "linux",
        "MemoryLimit": "memory" in controllers,
        "SwapLimit": "memory" in controllers,
        "CpuCfsQuota": "cpu" in controllers,
        "PidsLimit": "pids" in controllers,
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
    }))


def image_inspect(words):
    found, names = options("image inspect", words, ["format"], [], 125)
    for name in names:
        text = asked(["image", "inspect", "--", name])
        if text is None:
            fail(f"Error response from daemon: No such image: {name}", 1)
        image = json.loads(text)[0]
        image["Id"] = "sha256:" + image["Id"]
        line = dict(found)["format"]
        for field in ("Id", "RepoDigests", "Config"):
            line = line.replace("{{json .%s}}" % field, json.dumps(image[field]))
        if "{{" in line:
            fail(f"this stand-in does not know the format {line}", 1)
        print(line)


def ps(words):
    options("ps", words, ["filter", "format"], ["all", "quiet", "no-trunc"], 125)
    # Docker takes a condition as it is, podman a list of comma-separated values.
    words = ['"%s"' % word.replace('"', '""') if word.startswith("label=") else word for word in words]
    sys.exit(podman(["ps", *words]).returncode)


def rm(words):
    _, names = options("rm", words, [], ["force", "link", "volumes"], 125)
    code = 0
    for name in names:
        if podman(["container", "exists", name]).returncode:
            print(f"Error response from daemon: No such container: {name}", file=sys.stderr)
            code = 1
        else:
            code = max(code, podman(["rm", "--force", "--ignore", "--time=0", "--volumes", name]).returncode)
    sys.exit(code)


def main(words):
    commands = {("run",): run, ("info",): info, ("image", "inspect"): image_inspect, ("ps",): ps, ("rm",): rm}
    if words == ["--version"]:
        return print("Docker version 28.2.2, build stand-in")
    for names, command in commands.items():
        if tuple(words[: len(names)]) == names:
            return command(words[len(names):])
    fail(f"docker: unknown command: docker {' '.join(words[:1])}\n\nRun 'docker --help' for more information", 1)


main(sys.argv[1:])
