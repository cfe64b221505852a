//! What every command here has at hand: the way to the node, how to print, and which network is meant.

use barnraiser_protocol::id::NetworkId;

use super::super::args::Global;
use super::super::output::Output;
use crate::api::{NetworkStatus, Problem, Status};
use crate::client::Client;

/// A command's surroundings.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub client: Client,
    pub out: Output,
    /// `--network`, as given.
    pub network: Option<String>,
}

impl Context {
    pub fn new(global: &Global, client: Client) -> Self {
        Self { client, out: Output::new(global), network: global.network.clone() }
    }

    /// The network that is meant, in front of whose paths `/api/v1/n/{net}` stands.
    pub async fn network(&self) -> Result<InNetwork<'_>, Problem> {
        let status: Status = self.client.get("/api/v1/status").await?;
        let id = choose(self.network.as_deref(), &status.networks)?.id;
        Ok(InNetwork { context: self, id })
    }
}

/// One network of the node.
#[derive(Debug, Clone)]
pub(super) struct InNetwork<'a> {
    pub context: &'a Context,
    pub id: NetworkId,
}

impl InNetwork<'_> {
    /// The path of `rest` in this network.
    pub fn path(&self, rest: &str) -> String {
        format!("/api/v1/n/{}/{rest}", self.id)
    }
}

/// The network that `wanted` names: by its name, else by the beginning of its id; the only one where nothing is wanted.
pub(super) fn choose<'a>(wanted: Option<&str>, networks: &'a [NetworkStatus]) -> Result<&'a NetworkStatus, Problem> {
    let list = || networks.iter().map(|network| format!("\n  {}  {}", network.id.short(), network.name)).collect::<String>();
    let Some(wanted) = wanted else {
        return match networks {
            [] => Err(Problem::usage("this home is a member of no network: `barn join TICKET`, or `barn network create NAME`")),
            [only] => Ok(only),
            _ => Err(Problem::usage(format!("this home is a member of several networks; say which with --network:{}", list()))),
        };
    };
    let named: Vec<&NetworkStatus> = networks.iter().filter(|network| network.name == wanted).collect();
    let lower = wanted.to_ascii_lowercase();
    let by_id = || networks.iter().filter(|network| !lower.is_empty() && network.id.to_string().starts_with(&lower)).collect();
    let found = if named.is_empty() { by_id() } else { named };
    match found[..] {
        [only] => Ok(only),
        [] => Err(Problem::not_found(format!("this home is a member of no network {wanted:?}; it has:{}", list()))),
        _ => Err(Problem::usage(format!("{wanted:?} fits several networks; write more of the id:{}", list()))),
    }
}

/// `text` as one part of a path: what is not plain is escaped, so that a typing mistake asks for something that is not
/// there, and nothing else.
pub(super) fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn network(id: u8, name: &str) -> NetworkStatus {
        NetworkStatus {
            id: NetworkId([id; 32]),
            name: name.into(),
            state: "live".into(),
            charter: 1,
            peers: 0,
            records: 0,
            batches: 0,
            leases: 0,
            policy: None,
            operators: Vec::new(),
            requests: Vec::new(),
            holders: Vec::new(),
            kept: None,
        }
    }

    #[test]
    fn a_network_is_named_only_where_there_are_several() {
        let both = [network(0x11, "alpha"), network(0x12, "beta")];
        assert_eq!(choose(None, &both[..1]).unwrap().name, "alpha");
        assert_eq!(choose(Some("beta"), &both).unwrap().name, "beta");
        assert_eq!(choose(Some("12"), &both).unwrap().name, "beta");
        let several = choose(None, &both).unwrap_err();
        assert!(several.exit_code() == 2 && several.message.contains("alpha") && several.message.contains("beta"));
        assert_eq!(choose(Some("1"), &both).unwrap_err().exit_code(), 2);
        assert_eq!(choose(Some("gamma"), &both).unwrap_err().exit_code(), 3);
        assert_eq!(choose(Some(""), &both).unwrap_err().exit_code(), 3);
        assert_eq!(choose(None, &[]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn what_people_type_stays_one_part_of_a_path() {
        assert_eq!(segment("a-1/../x?y"), "a-1%2F..%2Fx%3Fy");
    }
}
