//! `reeve identity`: parses, verifies, fetches and shows identities.

mod fetch;
mod parse;
mod show;
mod verify;

use clap::{Args, Subcommand};

use crate::problem::Verdict;

/// `reeve identity`.
#[derive(Args, Debug)]
pub(crate) struct IdentityArgs {
    #[command(subcommand)]
    verb: IdentityVerb,
}

#[derive(Debug, Subcommand)]
enum IdentityVerb {
    /// Say whether texts are SPIFFE IDs, and the one reason if not
    #[command(after_help = parse::EXAMPLES)]
    Parse(parse::ParseArgs),
    /// Say whether a certificate chain is a good SVID, and the one reason if not
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::VerifyArgs),
    /// Ask a SPIFFE Workload API who the caller is
    #[command(after_help = fetch::EXAMPLES)]
    Fetch(fetch::FetchArgs),
    /// Show the identities of a mesh's instances and how long their certificates last
    #[command(after_help = show::EXAMPLES)]
    Show(show::ShowArgs),
}

/// Does it.
pub(crate) fn run(args: &IdentityArgs) -> Verdict {
    match &args.verb {
        IdentityVerb::Parse(args) => parse::run(args),
        IdentityVerb::Verify(args) => verify::run(args),
        IdentityVerb::Fetch(args) => fetch::run(args),
        IdentityVerb::Show(args) => show::run(args),
    }
}

/// The name of an error's variant in snake case: the stable word for it (`WrongTrustDomain { … }` →
/// `wrong_trust_domain`).
fn reason_word(error: &impl std::fmt::Debug) -> String {
    let debug = format!("{error:?}");
    let name = debug
        .split(|c: char| !c.is_ascii_alphanumeric())
        .next()
        .unwrap_or_default();
    let mut word = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(c.to_ascii_lowercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_words() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "only its name is read")]
        enum Fault {
            Expired,
            WrongTrustDomain { id: u8 },
            BadPathChar(char),
        }
        assert_eq!(reason_word(&Fault::Expired), "expired");
        assert_eq!(
            reason_word(&Fault::WrongTrustDomain { id: 1 }),
            "wrong_trust_domain"
        );
        assert_eq!(reason_word(&Fault::BadPathChar('x')), "bad_path_char");
    }
}
