//! Keycloak's admin interface, for what an administrator does to a realm in the tests.

use serde_json::{Value, json};

use crate::certificates::Pair;
use crate::directory::PASSWORD;
use crate::grants::{Realm, realm};
use crate::server::{ADMIN, ADMIN_PASSWORD, Answer, Keycloak, keycloak, realm_file};

const KEYS: &str = "org.keycloak.keys.KeyProvider";

/// An administrator's session, good for a minute, and the realm that it is about.
pub struct Admin {
    server: &'static Keycloak,
    realm: String,
    token: String,
}

/// Whether a key of a realm signs or only verifies.
#[derive(Clone, Copy)]
pub enum State {
    Active,
    Passive,
}

/// A realm of the test's own: the file with examples under another name, without the directory.
pub fn fresh_realm(name: &str) -> Realm {
    let mut body = realm_file("staging");
    body["realm"] = name.into();
    let members = body.as_object_mut().expect("a realm is an object");
    members.remove("components");
    let admin = Admin::login(keycloak(), name);
    admin.send("POST", "/admin/realms", Some(&body));
    realm(name)
}

impl Realm {
    pub fn admin(&self) -> Admin {
        Admin::login(self.server, &self.name)
    }
}

impl Admin {
    fn login(server: &'static Keycloak, realm: &str) -> Admin {
        let fields = [
            ("grant_type", "password"),
            ("client_id", "admin-cli"),
            ("username", ADMIN),
            ("password", ADMIN_PASSWORD),
        ];
        let path = "/realms/master/protocol/openid-connect/token";
        let answer = server.form(path, &fields, &[]).success().json();
        let token = answer["access_token"].as_str().expect("a token answer");
        Admin {
            server,
            realm: realm.to_owned(),
            token: token.to_owned(),
        }
    }

    #[track_caller]
    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.server.json(method, path, &self.token, body).success()
    }

    #[track_caller]
    fn of_realm(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let path = format!("/admin/realms/{}{path}", self.realm);
        self.send(method, &path, body)
    }

    #[track_caller]
    pub fn client(&self, client_id: &str) -> Value {
        let path = format!("/clients?clientId={client_id}");
        let found = self.of_realm("GET", &path, None).json();
        assert!(found[0].is_object(), "no client {client_id}");
        found[0].clone()
    }

    /// Changes members of a client; those of its `attributes` one by one.
    #[track_caller]
    pub fn change_client(&self, client_id: &str, change: &Value) {
        let mut client = self.client(client_id);
        for (name, value) in change.as_object().expect("members to change") {
            match value.as_object() {
                Some(attributes) if client[name].is_object() => {
                    for (name, value) in attributes {
                        client["attributes"][name] = value.clone();
                    }
                }
                _ => client[name] = value.clone(),
            }
        }
        let path = format!("/clients/{}", id(&client));
        self.of_realm("PUT", &path, Some(&client));
    }

    #[track_caller]
    pub fn create_client(&self, client: &Value) {
        self.of_realm("POST", "/clients", Some(client));
    }

    /// A user of the realm's own, not the directory's, in a group.
    #[track_caller]
    pub fn create_user(&self, username: &str, group: &str) {
        let password = json!({"type": "password", "value": PASSWORD, "temporary": false});
        let user = json!({
            "username": username, "enabled": true, "email": format!("{username}@example.org"),
            "firstName": username, "lastName": username,
            "groups": [group], "credentials": [password],
        });
        self.of_realm("POST", "/users", Some(&user));
    }

    /// A list that the realm has: `/events` of logins, `/admin-events` of administrators, …
    #[track_caller]
    pub fn kept(&self, path: &str) -> Vec<Value> {
        let found = self.of_realm("GET", path, None).json();
        found.as_array().expect("a list").clone()
    }

    /// The realm as Keycloak shows it as a whole: as in a realm file, with secrets masked.
    #[track_caller]
    pub fn export(&self) -> Value {
        let path = "/partial-export?exportClients=true&exportGroupsAndRoles=true";
        self.of_realm("POST", path, None).json()
    }

    #[track_caller]
    pub fn groups_of(&self, username: &str) -> Value {
        let path = format!("/users?username={username}&exact=true");
        let user = self.of_realm("GET", &path, None).json()[0].clone();
        let path = format!("/users/{}/groups", id(&user));
        self.of_realm("GET", &path, None).json()
    }

    /// Lets users of `workshop-app` log in by password, so that a test needs no browser.
    pub fn allow_passwords(&self) {
        self.change_client("workshop-app", &json!({"directAccessGrantsEnabled": true}));
    }

    #[track_caller]
    pub fn create_role(&self, client_id: &str, role: &str) {
        let path = format!("/clients/{}/roles", id(&self.client(client_id)));
        self.of_realm("POST", &path, Some(&json!({"name": role})));
    }

    /// Gives a client's service account a role of another client, and has its tokens carry it.
    #[track_caller]
    pub fn grant(&self, service: &str, client_id: &str, role: &str) {
        self.assign(service, client_id, role);
        self.map_role("POST", &self.scope_of(service), client_id, role);
    }

    /// Gives a client's service account a role that the client's scope mappings may not name.
    #[track_caller]
    pub fn assign(&self, service: &str, client_id: &str, role: &str) {
        self.map_role("POST", &self.roles_of(service), client_id, role);
    }

    #[track_caller]
    pub fn revoke(&self, service: &str, client_id: &str, role: &str) {
        self.map_role("DELETE", &self.roles_of(service), client_id, role);
    }

    /// Gives a client's service account a new role of the realm itself.
    #[track_caller]
    pub fn grant_of_realm(&self, service: &str, role: &str) {
        self.of_realm("POST", "/roles", Some(&json!({"name": role})));
        let role = self.of_realm("GET", &format!("/roles/{role}"), None).json();
        let user = self.service_account(service);
        let path = format!("/users/{}/role-mappings/realm", id(&user));
        self.of_realm("POST", &path, Some(&json!([role])));
    }

    /// Has every access token of a client say something more.
    #[track_caller]
    pub fn add_mapper(&self, client_id: &str, mapper: &str, config: &Value) {
        let mut config = config.clone();
        config["access.token.claim"] = "true".into();
        let body = json!({
            "name": format!("mapper-{}", slmd::for_tests::identity::random_hex::<4>()),
            "protocol": "openid-connect", "protocolMapper": mapper, "config": config,
        });
        let client = self.client(client_id);
        let path = format!("/clients/{}/protocol-mappers/models", id(&client));
        self.of_realm("POST", &path, Some(&body));
    }

    #[track_caller]
    fn service_account(&self, client_id: &str) -> Value {
        let client = self.client(client_id);
        let path = format!("/clients/{}/service-account-user", id(&client));
        self.of_realm("GET", &path, None).json()
    }

    #[track_caller]
    fn roles_of(&self, service: &str) -> String {
        format!(
            "/users/{}/role-mappings",
            id(&self.service_account(service))
        )
    }

    #[track_caller]
    fn scope_of(&self, service: &str) -> String {
        format!("/clients/{}/scope-mappings", id(&self.client(service)))
    }

    #[track_caller]
    fn map_role(&self, method: &str, mappings: &str, client_id: &str, role: &str) {
        let client = self.client(client_id);
        let path = format!("/clients/{}/roles/{role}", id(&client));
        let role = self.of_realm("GET", &path, None).json();
        let path = format!("{mappings}/clients/{}", id(&client));
        self.of_realm(method, &path, Some(&json!([role])));
    }

    /// Adds a key that Keycloak makes: `rsa`, `ecdsa` or `eddsa`. Returns its component's id.
    #[track_caller]
    pub fn generate_key(&self, kind: &str, config: &Value) -> String {
        self.add_key(&format!("{kind}-generated"), config)
    }

    /// Adds a key that the test made, so that it can sign tokens by itself.
    #[track_caller]
    pub fn import_key(&self, pair: &Pair, priority: u32) -> String {
        self.add_key("rsa", &pair.component(priority))
    }

    #[track_caller]
    fn add_key(&self, provider: &str, config: &Value) -> String {
        let name = format!("key-{}", slmd::for_tests::identity::random_hex::<4>());
        let realm = self.of_realm("GET", "", None).json();
        let component = json!({
            "name": name, "providerId": provider, "providerType": KEYS,
            "parentId": realm["id"], "config": config,
        });
        self.of_realm("POST", "/components", Some(&component));
        let path = format!("/components?type={KEYS}&name={name}");
        let found = self.of_realm("GET", &path, None).json();
        id(&found[0]).to_owned()
    }

    /// The components of the realm's keys for signatures by RSA.
    #[track_caller]
    pub fn rsa_keys(&self) -> Vec<String> {
        let path = format!("/components?type={KEYS}");
        let found = self.of_realm("GET", &path, None).json();
        let keys = found.as_array().expect("a list").iter();
        let rsa = keys.filter(|key| key["providerId"] == "rsa-generated");
        rsa.map(|key| id(key).to_owned()).collect()
    }

    #[track_caller]
    pub fn set_key(&self, component: &str, state: State) {
        let path = format!("/components/{component}");
        let mut key = self.of_realm("GET", &path, None).json();
        let (active, enabled) = match state {
            State::Active => ("true", "true"),
            State::Passive => ("false", "true"),
        };
        key["config"]["active"] = json!([active]);
        key["config"]["enabled"] = json!([enabled]);
        self.of_realm("PUT", &path, Some(&key));
    }

    #[track_caller]
    pub fn remove_key(&self, component: &str) {
        self.of_realm("DELETE", &format!("/components/{component}"), None);
    }
}

#[track_caller]
fn id(thing: &Value) -> &str {
    thing["id"].as_str().expect("it has an id")
}
