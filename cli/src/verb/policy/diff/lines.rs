//! Two texts, line by line: what both have, and what only one has.

/// Most lines of each that are matched; what is longer is shown as a whole.
const MAX_MATCHED_LINES: usize = 1_000;

/// Lines that begin with a blank (in both), `-` (in `old` alone) or `+` (in `new` alone).
pub(super) fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let mut out = String::new();
    let mut put = |mark: char, line: &str| {
        out.push(mark);
        out.push_str(line);
        out.push('\n');
    };
    if old.len().max(new.len()) > MAX_MATCHED_LINES {
        old.iter().for_each(|line| put('-', line));
        new.iter().for_each(|line| put('+', line));
        return out;
    }
    let common = common(&old, &new);
    let length = |i: usize, j: usize| {
        let row = common.get(i).and_then(|row| row.get(j));
        row.copied().unwrap_or_default()
    };
    let (mut i, mut j) = (0, 0);
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b => {
                put(' ', a);
                i += 1;
                j += 1;
            }
            (Some(a), other) if other.is_none() || length(i + 1, j) >= length(i, j + 1) => {
                put('-', a);
                i += 1;
            }
            (_, Some(b)) => {
                put('+', b);
                j += 1;
            }
            (_, None) => return out,
        }
    }
}

/// How long the longest common subsequence of what is left from `(i, j)` on is.
fn common(old: &[&str], new: &[&str]) -> Vec<Vec<usize>> {
    let mut table = vec![vec![0; new.len() + 1]; old.len() + 1];
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            let at = |i: usize, j: usize| {
                let row: Option<&Vec<usize>> = table.get(i);
                row.and_then(|row| row.get(j)).copied().unwrap_or_default()
            };
            let best = match a == b {
                true => at(i + 1, j + 1) + 1,
                false => at(i + 1, j).max(at(i, j + 1)),
            };
            if let Some(cell) = table.get_mut(i).and_then(|row| row.get_mut(j)) {
                *cell = best;
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_stay_and_others_are_marked() {
        assert_eq!(diff("a\nb\nc", "a\nx\nc"), " a\n-b\n+x\n c\n");
        assert_eq!(diff("", "a\nb"), "+a\n+b\n");
        assert_eq!(diff("a", ""), "-a\n");
        assert_eq!(diff("a\nb", "b\na"), "-a\n b\n+a\n");
        let long = "x\n".repeat(MAX_MATCHED_LINES + 1);
        assert!(diff(&long, "x").ends_with("+x\n"));
    }
}
