"""A territory of its own make: enrols, runs one directive over mutual TLS, renews, and ends.

    territory.py URL CA_FILE TOKEN_FILE FOLDER

Written from the protocol's page alone, with Python's standard library alone. It prints one JSON object about what it did."""

import base64
import datetime
import http.client
import json
import pathlib
import ssl
import subprocess
import sys
import urllib.parse

from p256 import Key


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Mothership:
    def __init__(self, url, ca_file, pair=None):
        context = ssl.create_default_context(cafile=ca_file)
        if pair:
            context.load_cert_chain(*pair)
        place = urllib.parse.urlsplit(url)
        self.http = http.client.HTTPSConnection(place.hostname, place.port, context=context, timeout=40)

    def call(self, path, body, token=None, prefer=None):
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = "Bearer " + token
        if prefer:
            headers["Prefer"] = prefer
        self.http.request("POST", "/conduits/v1" + path, json.dumps(body), headers)
        answer = self.http.getresponse()
        text = answer.read()
        if answer.status not in (200, 201):
            raise SystemExit(f"{path}: {answer.status} {text!r}")
        return json.loads(text), answer.headers


def write_pair(folder, key, certificate):
    (folder / "client-key.pem").write_text(key.pem())
    (folder / "client.pem").write_text(certificate)
    return str(folder / "client.pem"), str(folder / "client-key.pem")


def run(mothership, lease):
    path, token, spec = "/directives/" + lease["directive_id"], lease["directive_token"], lease["spec"]
    report = {"nexus_version": "python-1", "sandbox_version": "none", "runtime_ref": "", "started_at": now(),
              "effective_capabilities_summary": {}}
    mothership.call(path + "/started", report, token)
    # Idempotent while it runs.
    assert mothership.call(path + "/started", report, token)[0]["duplicate"]
    ran = subprocess.run([spec.get("shell", "/bin/sh"), "-c", spec["command"]], capture_output=True, timeout=30)
    beat, _ = mothership.call(path + "/heartbeat", {"progress": {}, "last_output_seq": 0, "now": now()}, token)
    assert beat["lease_renewed"] and not beat["cancel_requested"]
    token = beat["directive_token"]
    log = {}
    for stream, output in (("stdout", ran.stdout), ("stderr", ran.stderr)):
        pieces = [output[at:at + 4] for at in range(0, len(output), 4)]
        for seq, piece in enumerate(pieces):
            chunk = {"stream": stream, "seq": seq, "bytes": base64.b64encode(piece).decode(), "truncated": False}
            stored, _ = mothership.call(path + "/log_chunks", chunk, token)
            assert stored["stored"] and stored["accepted_bytes"] == len(piece)
        log[stream] = {"chunks": len(pieces), "bytes": len(output)}
    end = {"status": "succeeded" if ran.returncode == 0 else "failed", "exit_code": ran.returncode,
           "artifacts_manifest": {"log": log}, "finished_at": now()}
    mothership.call(path + "/finished", end, token)
    return mothership.call(path + "/finished", dict(end, finished_at=now()), token)[0]


def main():
    url, ca_file, token_file, folder = sys.argv[1:]
    folder = pathlib.Path(folder)
    key = Key()
    request = {"enroll_token": pathlib.Path(token_file).read_text().strip(), "name": "python", "kind": "server",
               "platform": "python", "labels": {"made": "by hand"}, "csr_pem": key.request("python")}
    enrolled, _ = Mothership(url, ca_file).call("/territories/enroll", request)
    (folder / "ca.pem").write_text(enrolled["ca_bundle_pem"])
    pair = write_pair(folder, key, enrolled["mtls_client_cert_pem"])
    mothership = Mothership(url, str(folder / "ca.pem"), pair)
    beat = {"nexus_version": "python-1", "capacity": {"max_concurrent": 1, "supported_profiles": ["host"]},
            "running_directives_count": 0}
    answer, _ = mothership.call("/territories/heartbeat", beat)
    assert answer["territory_id"] == enrolled["territory_id"]
    poll = {"supported_sandbox_profiles": ["host"], "max_directives_to_claim": 1}
    polled, headers = mothership.call("/polls", poll, prefer="wait=20")
    [lease] = polled["directives"]
    ended = run(mothership, lease)
    key = Key()
    renewed, _ = mothership.call("/territories/renew", {"csr_pem": key.request("python")})
    pair = write_pair(folder, key, renewed["mtls_client_cert_pem"])
    again, _ = Mothership(url, ca_file, pair).call("/territories/heartbeat", beat)
    print(json.dumps({"territory_id": again["territory_id"], "directive_id": lease["directive_id"],
                      "wait_applied": headers.get("Preference-Applied"), "final_state": ended["final_state"],
                      "duplicate": ended["duplicate"]}))


main()
