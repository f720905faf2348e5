// The SHA-256 of the client certificate's DER, as the mothership knows a territory: nginx itself has SHA-1 alone.
function fingerprint(r) {
    if (r.variables.ssl_client_verify !== 'SUCCESS') {
        return '';
    }
    const body = r.variables.ssl_client_raw_cert.replace(/-----[A-Z ]+-----/g, '').replace(/\s/g, '');
    return require('crypto').createHash('sha256').update(Buffer.from(body, 'base64')).digest('hex');
}

export default { fingerprint };
