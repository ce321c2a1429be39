//! The order of dependency: what calls nobody comes first, what calls each other comes together.

use std::collections::BTreeSet;

/// The level of each node 0..`nodes`: above those of all that it calls, but for those that call it back by some way, which
/// have its own. Edges go from the caller to the called.
pub(super) fn levels(nodes: usize, edges: &BTreeSet<(usize, usize)>) -> Vec<usize> {
    let component = components(nodes, edges);
    let mut levels = vec![0; nodes];
    // Each pass settles at least one more component, since what is left of the graph has no circles.
    for _ in 0..nodes {
        let mut settled = true;
        for &(caller, called) in edges {
            let same = component.get(caller) == component.get(called);
            let above = match levels.get(called) {
                Some(level) if !same => level + 1,
                Some(_) | None => continue,
            };
            for node in 0..nodes {
                let together = component.get(node) == component.get(caller);
                if let Some(level) = levels.get_mut(node).filter(|l| together && **l < above) {
                    *level = above;
                    settled = false;
                }
            }
        }
        if settled {
            break;
        }
    }
    levels
}

/// The number of each node's strongly connected component: Kosaraju's algorithm, without recursion.
fn components(nodes: usize, edges: &BTreeSet<(usize, usize)>) -> Vec<usize> {
    let mut calls = vec![Vec::new(); nodes];
    let mut called = vec![Vec::new(); nodes];
    for &(from, to) in edges {
        if let (Some(out), Some(into)) = (calls.get_mut(from), called.get_mut(to)) {
            out.push(to);
            into.push(from);
        }
    }
    let mut order = Vec::new();
    let mut seen = vec![false; nodes];
    for start in 0..nodes {
        walk(start, &calls, &mut seen, &mut order);
    }
    let mut component = vec![0; nodes];
    let mut seen = vec![false; nodes];
    for (number, start) in order.iter().rev().enumerate() {
        let mut members = Vec::new();
        walk(*start, &called, &mut seen, &mut members);
        for member in members {
            if let Some(place) = component.get_mut(member) {
                *place = number;
            }
        }
    }
    component
}

/// Adds what can be reached from `start` and was not seen to `order`, each after all that it leads to.
fn walk(start: usize, next: &[Vec<usize>], seen: &mut [bool], order: &mut Vec<usize>) {
    let mut stack = vec![(start, false)];
    while let Some((node, done)) = stack.pop() {
        if done {
            order.push(node);
            continue;
        }
        match seen.get_mut(node) {
            Some(mark) if !*mark => *mark = true,
            Some(_) | None => continue,
        }
        stack.push((node, true));
        let following = next.get(node).into_iter().flatten();
        stack.extend(following.map(|node| (*node, false)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn leaves_come_first_and_circles_together() {
        // 0 → 1 → 2 ⇄ 3 → 4, and 5 alone.
        let edges = [(0, 1), (1, 2), (2, 3), (3, 2), (3, 4), (4, 4)];
        let found = levels(6, &edges.into_iter().collect());
        assert_eq!(found, [3, 2, 1, 1, 0, 0]);
    }

    proptest! {
        #[test]
        fn a_caller_is_never_below_what_it_calls(
            edges in proptest::collection::btree_set((0_usize..12, 0_usize..12), 0..40),
        ) {
            let found = levels(12, &edges);
            let reaches = |from: usize, to: usize| {
                let (mut seen, mut waiting) = (BTreeSet::new(), vec![from]);
                while let Some(node) = waiting.pop() {
                    let next = edges.iter().filter(|(a, _)| *a == node).map(|(_, b)| *b);
                    waiting.extend(next.filter(|node| seen.insert(*node)));
                }
                seen.contains(&to)
            };
            for &(caller, called) in &edges {
                match reaches(called, caller) {
                    true => prop_assert_eq!(found[caller], found[called]),
                    false => prop_assert!(found[caller] > found[called]),
                }
            }
        }
    }
}
