//! Cedar text in Cedar's own layout.

use cedar_policy::PolicySet;
use cedar_policy_formatter::{Config, policies_str_to_pretty};
use reeve_core::PolicyId;

use crate::{PolicyFault, bounds, compile::parse_faults};

/// Columns that one more level is set in by.
const INDENT: isize = 2;
/// Times that a text is laid out again until it stays the same.
const MAX_ROUNDS: usize = 4;

/// The policies (and templates) of `text` in Cedar's layout, comments kept, in lines of about `line_width`; the same
/// text again if it is formatted already. Faults name the policy `id`. Only the syntax is looked at, not the schema.
pub fn format_policies(
    id: &PolicyId,
    text: &str,
    line_width: usize,
) -> Result<String, Vec<PolicyFault>> {
    // The formatter recurses like the parser.
    bounds::check(text).map_err(|e| vec![PolicyFault::at(id, text, e.offset, e.to_string())])?;
    let set: PolicySet = text.parse().map_err(|e| parse_faults(id, text, &e))?;
    if set.is_empty() && set.num_of_templates() == 0 {
        // Comments at most: there is nothing to lay out.
        return Ok(text.to_owned());
    }
    let config = Config {
        line_width,
        indent_width: INDENT,
    };
    let mut before = text.to_owned();
    for _ in 0..MAX_ROUNDS {
        // It compares the policies before and after, and fails rather than change one.
        let after = policies_str_to_pretty(&before, &config).map_err(|error| {
            vec![PolicyFault::at(
                id,
                text,
                0,
                format!("not formatted: {error:#}"),
            )]
        })?;
        if after == before {
            return Ok(after);
        }
        before = after;
    }
    let message = "not formatted: the layout does not settle".to_owned();
    Err(vec![PolicyFault::at(id, text, 0, message)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn format(text: &str) -> Result<String, Vec<PolicyFault>> {
        format_policies(&PolicyId::parse("default/x").unwrap(), text, 80)
    }

    #[test]
    fn policies_are_laid_out_and_comments_kept() {
        let text = "// who\npermit(principal,action,resource)when{context.port==80}; // why\nforbid(principal,action,resource);\n// end\n";
        let once = format(text).unwrap();
        assert_eq!(
            once,
            "// who\npermit (principal, action, resource)\nwhen { context.port == 80 }; // why\n\n\
             forbid (principal, action, resource);\n// end\n"
        );
        assert_eq!(format(&once).unwrap(), once);
        assert_eq!(format("// nothing yet\n").unwrap(), "// nothing yet\n");
    }

    #[test]
    fn what_does_not_parse_is_refused_where_it_is_wrong() {
        let faults =
            format("permit (principal, action, resource)\nwhen { context. };").unwrap_err();
        assert_eq!((faults[0].line, faults[0].column), (2, 17), "{faults:?}");
        let deep = format!(
            "permit (principal, action, resource) when {{ {}true{} }};",
            "(".repeat(500),
            ")".repeat(500)
        );
        assert!(format(&deep).unwrap_err()[0].message.contains("bracket"));
    }

    #[test]
    fn a_string_of_several_lines_keeps_them_all() {
        let text = "permit (principal, action, resource) when { context.path == \"a\n\n  b\" };";
        assert!(format(text).unwrap().contains("\"a\n\n  b\""));
    }

    proptest! {
        #[test]
        fn formatting_ends_and_settles(text in "(permit|forbid|\\(|\\)|principal|action|resource|,|;|when|\\{|\\}|==| |\n|//x\n|\"a\"|true){0,24}") {
            if let Ok(once) = format(&text) {
                prop_assert_eq!(format(&once).unwrap(), once);
            }
        }
    }
}
