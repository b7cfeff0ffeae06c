//! Which libraries the clients of a storm use: the value of `--like`.

use std::str::FromStr;

use crate::client_library::{
    library::Library,
    table::{ALL, DOTNET, JS, PYTHON},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMix {
    /// All clients use this one.
    One(&'static Library),
    /// Equal shares of every library.
    All,
}

impl ClientMix {
    /// The libraries that occur. The `n`th client uses the `n`th of them, modulo their number.
    pub fn libraries(self) -> Vec<&'static Library> {
        match self {
            Self::One(library) => vec![library],
            Self::All => ALL.to_vec(),
        }
    }

    /// The adjective for the clients in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "mixed",
            Self::One(library) => match library.lang {
                "go" => "Go",
                "rust" => "Rust",
                "python3" => "Python",
                "nats.js" => "JavaScript",
                "java" => "Java",
                other => other,
            },
        }
    }
}

impl FromStr for ClientMix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |library: &&&Library| library.lang.eq_ignore_ascii_case(text);
        match text.to_ascii_lowercase().as_str() {
            "mix" => Ok(Self::All),
            "python" | "py" => Ok(Self::One(&PYTHON)),
            "js" => Ok(Self::One(&JS)),
            "dotnet" => Ok(Self::One(&DOTNET)),
            _ => ALL.iter().find(named).map(|library| Self::One(library)).ok_or_else(|| {
                format!("{text:?} is no client library; write go, rust, python3, nats.js, java, C, dotnet or mix")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_library::table::{C, GO};

    #[test]
    fn names() {
        assert_eq!("go".parse(), Ok(ClientMix::One(&GO)));
        assert_eq!("c".parse(), Ok(ClientMix::One(&C)));
        assert_eq!("nats.js".parse(), Ok(ClientMix::One(&JS)));
        assert_eq!("dotnet".parse(), Ok(ClientMix::One(&DOTNET)));
        assert_eq!("mix".parse(), Ok(ClientMix::All));
        assert!("cobol".parse::<ClientMix>().unwrap_err().contains("nats.js"));
        let libraries = ClientMix::All.libraries();
        assert_eq!(libraries[9 % libraries.len()].lang, "python3");
    }
}
