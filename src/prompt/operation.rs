//! The table of operations: what a client may ask for, where, and with which scope.
//!
//! HTTP's routes (`transport/http/route.rs`) and MQTT's topics (`transport/mqtt/topics.rs`) come
//! from it, as do the names in audit and metrics.

use serde::{Deserialize, Serialize};

/// What a token may allow. Keycloak's roles map to these by the realm's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Ask prompts, see models.
    Read,
    /// Named prompts, active model and adapter, files.
    Write,
    /// Fine-tuning jobs, promote, roll back.
    FineTune,
    /// Read the audit log.
    Audit,
}

impl Scope {
    pub const ALL: [Scope; 4] = [Scope::Read, Scope::Write, Scope::FineTune, Scope::Audit];

    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::FineTune => "fine-tune",
            Scope::Audit => "audit",
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// In audit records and metrics.
    pub name: &'static str,
    pub method: &'static str,
    /// Several lines may share one, each with a method of its own; what stands in braces is for the
    /// request to say ([`super::Place`]). Over MQTT the topic is the path.
    pub path: &'static str,
    /// That a token needs.
    pub scope: Scope,
}

macro_rules! table {
    ($(#[$meta:meta])* $type:ident {
        $($(#[$about:meta])* $variant:ident = $name:literal, $method:literal $path:literal, $scope:ident;)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type { $($(#[$about])* $variant,)+ }

        impl $type {
            pub const ALL: &'static [$type] = &[$($type::$variant,)+];

            pub fn entry(self) -> &'static Entry {
                match self {
                    $($type::$variant => &Entry {
                        name: $name,
                        method: $method,
                        path: $path,
                        scope: Scope::$scope,
                    },)+
                }
            }
        }
    };
}

table! {
    /// A prompt that the model completes, over HTTP and MQTT: how it is put, and its answer written
    /// (`wire`). Belongs to one model.
    Dialect {
        Chat = "chat", "POST" "/v1/chat/completions", Read;
        Text = "completion", "POST" "/v1/completions", Read;
    }
}

impl Dialect {
    /// `gen_ai.operation.name` of OpenTelemetry.
    pub fn operation_name(self) -> &'static str {
        match self {
            Dialect::Chat => "chat",
            Dialect::Text => "text_completion",
        }
    }
}

table! {
    /// What changes nothing and nobody waits for: such are counted in the audit. HTTP only.
    Look {
        Models = "list_models", "GET" "/v1/models", Read;
        Model = "list_models", "GET" "/v1/models/{id}", Read;
        Metrics = "read_metrics", "GET" "/metrics", Audit;
        /// Ready or not is for everybody; all the rest (`?verbose`) is what the scope is for.
        Status = "read_status", "GET" "/readyz", Audit;
        /// Records of the token's own realm.
        Audit = "read_audit", "GET" "/v1/audit", Audit;
        Checkpoint = "read_checkpoint", "GET" "/v1/audit/checkpoint", Audit;
        Proof = "read_proof", "GET" "/v1/audit/proof/{index}", Audit;
        Consistency = "read_consistency", "GET" "/v1/audit/consistency/{from}", Audit;
    }
}

/// What a client asks for, without its particulars: all that a decision looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Complete(Dialect),
    Look(Look),
    /// Stop the principal's own request (MQTT only, beneath the request's topic).
    Cancel,
}

impl Operation {
    /// The scope that a token needs for it.
    pub fn scope(self) -> Scope {
        match self {
            Operation::Complete(dialect) => dialect.entry().scope,
            Operation::Look(look) => look.entry().scope,
            Operation::Cancel => Scope::Read,
        }
    }

    /// The name that audit and metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Complete(dialect) => dialect.entry().name,
            Operation::Look(look) => look.entry().name,
            Operation::Cancel => "cancel",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request has one meaning, whatever else is asked for: no path of the table covers another's.
    #[test]
    fn no_two_operations_answer_one_request() {
        let dialects = Dialect::ALL.iter().map(|dialect| dialect.entry());
        let looks = Look::ALL.iter().map(|look| look.entry());
        let entries: Vec<&Entry> = dialects.chain(looks).collect();
        for (i, one) in entries.iter().enumerate() {
            assert!(one.path.starts_with('/'), "{}", one.path);
            for other in &entries[i + 1..] {
                assert_ne!((one.method, one.path), (other.method, other.path));
            }
        }
    }
}
