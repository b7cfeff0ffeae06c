//! weir's integration tests, one module for each subject: real nats-servers, a real weir and real clients on loopback.
//!
//! They are one binary, so that the harness (`tests/support`) and its dependencies are linked once. All tests therefore
//! share one process. A test must not change what belongs to the process, such as its environment or its current
//! folder, and must not count what belongs to the process: it reads descriptors and memory of a child process, by its
//! pid.
//!
//! `scripts/test` runs two tests at a time, since one test may have three servers and some thousands of clients. Plain
//! `cargo test` runs as many at a time as there are cores, unless `RUST_TEST_THREADS` says otherwise.

mod account_quota;
mod accounts;
mod admin_port;
mod admission;
mod alert_rules;
mod any_configuration;
mod auth_callout;
mod before_connect;
mod browser;
mod check;
mod check_connect;
mod claims;
mod cli;
mod client_libraries;
mod command_line;
mod config;
mod connect_again;
mod differential;
mod discover;
mod drain;
mod failed_logins;
mod failover;
mod file_limit;
mod full_server;
mod hanging_logins;
mod harness;
mod hostile_clients;
mod identity_spoofing;
mod ip_families;
mod jwt;
mod kick;
mod lame_duck;
mod late_clients;
mod links;
mod live_page;
mod log;
mod log_reference;
mod login_matrix;
mod max_connections;
mod names;
mod nats_cli;
mod nats_server_install;
mod natsz;
mod nkey;
mod odd_infos;
mod other_clusters;
mod passthrough_busy_servers;
mod pipelined;
mod placement;
mod policies;
mod proxy_protocol;
mod reference_docs;
mod reference_keys;
mod refusal;
mod refused_logins;
mod relay;
mod reload;
mod reload_listeners;
mod reload_many;
mod reload_servers;
mod reports;
mod rust_client;
mod secrets;
mod server_faults;
mod server_identity;
mod shared_source;
mod slow_server;
mod source_addresses;
mod source_tree;
mod storm_and_plan;
mod strangers;
mod system_account;
mod system_account_reserve;
mod tcp_timeouts;
mod test_script;
mod tls_listeners;
mod tls_passthrough;
mod tls_servers;
mod tls_versions;
mod trusted_proxy;
mod user_and_name_quotas;
mod verbs;
mod warnings;
mod websocket;
mod websocket_memory;
mod websocket_servers;
mod who_is_refused;
mod wire_habits;
