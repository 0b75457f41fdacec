//! Public keys whose private half anybody can compute.
//!
//! RSA moduli are held to SP 800-89 section 5.3.3 (composite, no square, no power of a prime, no
//! small factor), to the fingerprint of ROCA (CVE-2017-15361: Nemec et al., "The Return of
//! Coppersmith's Attack", 2017) and against factors that are close to each other (CVE-2022-26320);
//! Ed25519 points against small orders and encodings that aren't canonical (RFC 8032 section 5.1.3).
//! The curves of ECDSA have prime order, and a point that isn't on them is refused where it is read.
//!
//! Two depths: [`quick`] checks cost less than a signature, the [`thorough`] ones some of them.

use std::sync::LazyLock;

use num_bigint::BigUint;

/// SP 800-89 section 5.3.3 wants no factor below it.
const SMALL: u32 = 752;
/// ROCA's primes were built from the product of all primes up to this one, for every key size.
const ROCA_LAST: u32 = 167;
/// The generator in ROCA's primes `k·M + (65537^a mod M)`.
const ROCA_GENERATOR: u64 = 65_537;
/// Steps of Fermat's factorisation, as in the check of CVE-2022-26320's finder.
const FERMAT_STEPS: usize = 100;

/// Odd primes below [`SMALL`], in groups whose product fits 32 bits: one division for each group.
static GROUPS: LazyLock<Vec<(u32, Vec<u32>)>> = LazyLock::new(|| {
    let mut groups: Vec<(u32, Vec<u32>)> = Vec::new();
    for prime in (3..SMALL).filter(|n| is_prime(*n)) {
        match groups.last_mut() {
            Some((product, primes)) if product.checked_mul(prime).is_some() => {
                *product *= prime;
                primes.push(prime);
            }
            _ => groups.push((prime, vec![prime])),
        }
    }
    groups
});

/// What is wrong with a modulus (big endian) that a few divisions tell.
pub(super) fn quick_rsa(modulus: &[u8]) -> Result<(), String> {
    if modulus.last().is_none_or(|last| last % 2 == 0) {
        return Err("its modulus is even".to_owned());
    }
    let residues = residues(modulus);
    if let Some((prime, _)) = residues.iter().find(|(_, residue)| *residue == 0) {
        return Err(format!("its modulus has the factor {prime}"));
    }
    if is_roca(&residues) {
        return Err("its modulus has the structure of CVE-2017-15361 (ROCA)".to_owned());
    }
    Ok(())
}

#[cfg(test)]
thread_local! {
    /// How often [`thorough_rsa`] was called.
    pub(super) static TESTS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// [`quick_rsa`], and what needs arithmetic with the whole modulus.
pub(super) fn thorough_rsa(modulus: &[u8]) -> Result<(), String> {
    #[cfg(test)]
    TESTS.set(TESTS.get() + 1);
    quick_rsa(modulus)?;
    let n = BigUint::from_bytes_be(modulus);
    if is_square(&n) {
        return Err("its modulus is a square".to_owned());
    }
    // Fermat's test to the base 2. For a prime or its power, and nothing that anybody makes by
    // chance, a factor of n divides what 2^(n-1) is above 1.
    let one = BigUint::from(1_u32);
    let power = BigUint::from(2_u32).modpow(&(&n - &one), &n);
    if gcd(n.clone(), (power + &n - &one) % &n) != one {
        return Err("its modulus is a prime or no product of two".to_owned());
    }
    if has_close_factors(&n) {
        return Err(
            "the factors of its modulus are close to each other (CVE-2022-26320)".to_owned(),
        );
    }
    Ok(())
}

/// What is wrong with an encoded point of Ed25519 that comparisons tell.
pub(super) fn quick_ed25519(encoded: &[u8; 32]) -> Result<(), String> {
    let mut y = *encoded;
    // The sign of x; the points whose x has none, 0, have a small order.
    y[31] &= 0x7f;
    if y[1..31].iter().all(|byte| *byte == 0xff) && y[31] == 0x7f && y[0] >= 0xed {
        return Err("its `x` is no canonical point".to_owned());
    }
    if SMALL_ORDER.contains(&y) {
        return Err("its point has a small order".to_owned());
    }
    Ok(())
}

/// [`quick_ed25519`], and whether the point is on the curve.
pub(super) fn thorough_ed25519(encoded: &[u8; 32]) -> Result<(), String> {
    quick_ed25519(encoded)?;
    let mut y = *encoded;
    y[31] &= 0x7f;
    let number = |n: u32| BigUint::from(n);
    let p = (number(1) << 255) - number(19);
    let inverse = |n: BigUint| n.modpow(&(&p - number(2)), &p);
    // -x² + y² = 1 + d·x²·y² with d = -121665/121666: x² = (y² - 1) / (d·y² + 1).
    let d = &p - number(121_665) * inverse(number(121_666)) % &p;
    let square = BigUint::from_bytes_le(&y).pow(2) % &p;
    let above = (&square + &p - number(1)) % &p;
    let below = (d * &square + number(1)) % &p;
    // Euler's criterion; 0 is the square of 0.
    let half = (&p - number(1)) / number(2);
    let criterion = (above * below).modpow(&half, &p);
    if criterion > number(1) {
        return Err("its `x` is no point of the curve".to_owned());
    }
    Ok(())
}

/// The y of the points of order 1, 2, 4 and 8, little endian; ±x share theirs.
const SMALL_ORDER: [[u8; 32]; 5] = {
    let mut points = [[0; 32]; 5];
    points[1][0] = 1;
    points[2] = [0xff; 32];
    points[2][0] = 0xec;
    points[2][31] = 0x7f;
    points[3] = [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ];
    points[4] = [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ];
    points
};

fn is_prime(n: u32) -> bool {
    (2..n)
        .take_while(|d| d * d <= n)
        .all(|d| !n.is_multiple_of(d))
}

/// Each small prime with what the modulus leaves when it is divided by it.
fn residues(modulus: &[u8]) -> Vec<(u32, u32)> {
    let (first, whole) = modulus.split_at(modulus.len() % 4);
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    let words: Vec<u64> = std::iter::once(word(first))
        .chain(whole.chunks(4).map(word))
        .collect();
    let of_group = |(product, primes): &'static (u32, Vec<u32>)| {
        let product = u64::from(*product);
        let rest = words
            .iter()
            .fold(0, |rest, word| (rest << 32 | word) % product);
        // INVARIANT: what is left is below a product that fits 32 bits.
        primes
            .iter()
            .map(move |prime| (*prime, (rest % u64::from(*prime)) as u32))
    };
    GROUPS.iter().flat_map(of_group).collect()
}

/// Whether the modulus is a power of 65537 by each of ROCA's primes, all with one exponent. By
/// chance one in 2^150 is.
fn is_roca(residues: &[(u32, u32)]) -> bool {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for (prime, residue) in residues.iter().take_while(|(prime, _)| *prime <= ROCA_LAST) {
        let Some(logarithm) = logarithm(*prime, *residue) else {
            return false;
        };
        // Two exponents agree where they are equal by what their periods share.
        let agrees = |(exponent, period): &(u32, u32)| {
            let shared = shared_divisor(*period, logarithm.1);
            exponent % shared == logarithm.0 % shared
        };
        if !found.iter().all(agrees) {
            return false;
        }
        found.push(logarithm);
    }
    !found.is_empty()
}

/// The exponent of 65537 that gives `residue` by `prime`, and the period of its powers.
fn logarithm(prime: u32, residue: u32) -> Option<(u32, u32)> {
    let (mut power, mut found, mut period) = (1, None, 0);
    loop {
        if power == u64::from(residue) {
            found = found.or(Some(period));
        }
        power = power * ROCA_GENERATOR % u64::from(prime);
        period += 1;
        // Every power returns to 1: 65537 is a prime above all of these.
        if power == 1 {
            return Some((found?, period));
        }
    }
}

fn shared_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { shared_divisor(b, a % b) }
}

fn is_square(n: &BigUint) -> bool {
    // One in a hundred passes, for far less than a root costs.
    let residue = n % (64_u32 * 63 * 65 * 11);
    let residue = residue.iter_u32_digits().next().unwrap_or(0);
    let may_be = [64, 63, 65, 11].iter().all(|by| {
        let residue = residue % by;
        (0..*by).any(|root| root * root % by == residue)
    });
    may_be && n.sqrt().pow(2) == *n
}

/// Whether `n` is (a + b)·(a - b) with a small b: Fermat's factorisation.
fn has_close_factors(n: &BigUint) -> bool {
    let one = BigUint::from(1_u32);
    // Above the root, because n is no square.
    let first = n.sqrt() + &one;
    (0..FERMAT_STEPS).any(|step| {
        let a = &first + BigUint::from(step);
        is_square(&(a.pow(2) - n))
    })
}

fn gcd(mut a: BigUint, mut b: BigUint) -> BigUint {
    let zero = BigUint::from(0_u32);
    while b != zero {
        (a, b) = (b.clone(), a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RsaKeyPair};

    use super::*;
    use crate::identity::random;

    fn number(n: u32) -> BigUint {
        BigUint::from(n)
    }

    fn is_probably_prime(n: &BigUint) -> bool {
        residues(&n.to_bytes_be())
            .iter()
            .all(|(_, residue)| *residue != 0)
            && number(2).modpow(&(n - number(1)), n) == number(1)
    }

    /// A prime of about `bits` bits, at or above a random place.
    fn prime(bits: u64) -> BigUint {
        let place = BigUint::from_bytes_be(&random::<256>()) >> (2048 - bits);
        next_prime(place | (number(3) << (bits - 2)))
    }

    fn next_prime(from: BigUint) -> BigUint {
        let mut n = from | number(1);
        while !is_probably_prime(&n) {
            n += number(2);
        }
        n
    }

    #[track_caller]
    fn refused(n: &BigUint, why: &str) {
        let said = thorough_rsa(&n.to_bytes_be()).unwrap_err();
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn what_a_sound_maker_makes_is_sound() {
        for size in [KeySize::Rsa2048, KeySize::Rsa3072, KeySize::Rsa4096] {
            let pair = RsaKeyPair::generate(size).unwrap();
            let components = PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
            assert_eq!(thorough_rsa(&components.n), Ok(()));
        }
        for _ in 0..100 {
            let pair = Ed25519KeyPair::generate().unwrap();
            let encoded = pair.public_key().as_ref().try_into().unwrap();
            assert_eq!(thorough_ed25519(encoded), Ok(()));
        }
    }

    #[test]
    fn moduli_that_are_no_product_of_two_large_primes_are_refused() {
        let (p, q) = (prime(1024), prime(1024));
        assert_eq!(thorough_rsa(&(&p * &q).to_bytes_be()), Ok(()));
        refused(&(&p * number(2)), "even");
        for factor in [3_u32, 5, 167, 173, 743, 751] {
            refused(&(&p * &q * number(factor)), &format!("the factor {factor}"));
        }
        refused(&p.pow(2), "a square");
        refused(&(prime(512) * prime(512)).pow(2), "a square");
        refused(&prime(700).pow(3), "a prime");
        refused(&prime(1024), "a prime");
        refused(&(&p * next_prime(&p + number(1000))), "close");
    }

    /// Carmichael numbers pass Fermat's test: (6k+1)(12k+1)(18k+1), all of them primes.
    #[test]
    fn a_product_that_looks_like_a_prime_is_refused() {
        let of = |k: u32| [6, 12, 18].map(|times| number(k) * number(times) + number(1));
        let mut ks = (100_000_000_u32..).filter(|k| of(*k).iter().all(is_probably_prime));
        let [a, b, c] = of(ks.next().unwrap());
        refused(&(a * b * c), "a prime");
    }

    /// Primes as the library of CVE-2017-15361 made them: k·M + (65537^a mod M).
    #[test]
    fn roca_is_recognised() {
        // M for 2048 bits is the product of the first 126 primes.
        let m = (2..)
            .filter(|n| is_prime(*n))
            .take(126)
            .fold(number(1), |m, p| m * number(p));
        let roca_prime = || {
            let exponent = BigUint::from_bytes_be(&random::<16>());
            let residue = number(65_537).modpow(&exponent, &m);
            let first = (number(3) << 1022) / &m;
            let candidates = (0_u32..).map(|n| (&first + number(n)) * &m + &residue);
            candidates.into_iter().find(is_probably_prime).unwrap()
        };
        for _ in 0..3 {
            let n = roca_prime() * roca_prime();
            assert!(quick_rsa(&n.to_bytes_be()).unwrap_err().contains("ROCA"));
        }
        // One such prime alone leaves no such trace.
        let n = roca_prime() * prime(1024);
        assert_eq!(quick_rsa(&n.to_bytes_be()), Ok(()));
    }

    #[test]
    fn points_of_small_order_and_other_encodings_are_refused() {
        let p = (number(1) << 255) - number(19);
        let encoded = |y: &BigUint, sign: u8| {
            let mut bytes = y.to_bytes_le();
            bytes.resize(32, 0);
            bytes[31] |= sign << 7;
            <[u8; 32]>::try_from(bytes).unwrap()
        };
        for sign in [0, 1] {
            for y in SMALL_ORDER {
                let y = BigUint::from_bytes_le(&y);
                let why = quick_ed25519(&encoded(&y, sign)).unwrap_err();
                assert!(why.contains("small order"), "{why}");
            }
            // y + p fits 255 bits for y up to 18.
            for y in 0..19 {
                let why = quick_ed25519(&encoded(&(&p + number(y)), sign)).unwrap_err();
                assert!(why.contains("canonical"), "{why}");
            }
            // Every y below 30 that gives a point, and no other.
            let is_point = |y: &u32| thorough_ed25519(&encoded(&number(*y), sign)).is_ok();
            let points: Vec<u32> = (3..30).filter(is_point).collect();
            let known = [
                3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 19, 21, 23, 24, 25, 26, 27, 28, 29,
            ];
            assert_eq!(points, known);
        }
    }

    /// What is called small in the table is: eight times the point is the neutral one.
    #[test]
    fn the_table_of_small_orders_is_right() {
        let p = (number(1) << 255) - number(19);
        let half = (&p - number(1)) / number(2);
        let inverse = |n: BigUint| n.modpow(&(&p - number(2)), &p);
        let d = &p - number(121_665) * inverse(number(121_666)) % &p;
        for y in SMALL_ORDER.map(|y| BigUint::from_bytes_le(&y)) {
            let square = &y * &y % &p;
            let below = (&d * &square + number(1)) % &p;
            let mut x_square = (&square + &p - number(1)) * inverse(below) % &p;
            let criterion = x_square.modpow(&half, &p);
            assert!(criterion <= number(1), "on the curve");
            let mut y = y;
            // Doubling, by y and x² alone.
            for _ in 0..3 {
                let y_square = &y * &y % &p;
                let product = &d * &x_square % &p * &y_square % &p;
                let above = (&y_square + &x_square) % &p;
                let below = (&p + number(1) - product) % &p;
                let x_above = number(4) * &x_square % &p * &y_square % &p;
                let x_below = (number(1) + &d * &x_square % &p * &y_square) % &p;
                x_square = x_above * inverse(x_below.pow(2) % &p) % &p;
                y = above * inverse(below) % &p;
            }
            assert_eq!((x_square, y), (number(0), number(1)));
        }
    }
}
