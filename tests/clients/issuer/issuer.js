// An issuer of tokens for the audience "registry-mirror": node issuer.js HOST PORT CLIENT...
// Each client's secret is its name; the token's subject is the client.
import { generateKeyPairSync } from 'node:crypto';
import { Provider } from 'oidc-provider';

const [host, port, ...clients] = process.argv.slice(2);
const key = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
const audience = 'registry-mirror';
const issuer = new Provider(`http://${host}:${port}`, {
  jwks: { keys: [{ ...key, use: 'sig', alg: 'RS256', kid: 'made-at-the-start' }] },
  clients: clients.map((name) => ({
    client_id: name,
    client_secret: name,
    token_endpoint_auth_method: 'client_secret_post',
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
  })),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => `urn:${audience}`,
      getResourceServerInfo: () => ({
        audience,
        scope: '',
        accessTokenFormat: 'jwt',
        accessTokenTTL: 600,
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
});
issuer.listen(Number(port), host);
