//! `Linear`: an optional normalisation before it, a weight matrix, an optional residual after.

use std::sync::Arc;

use tract_onnx::tract_core::{as_op, not_out_of_plan, op_as_typed_op};
use tract_onnx::tract_hir::internal::{
    EvalContext, EvalOp, Op, StaticName, TValue, TVec, TractResult, TypedFact, TypedOp, bail,
};

use super::super::kernels::layout::Matrix;
use super::{Machine, MatrixSpec, Norm, NormSpec, bound, float_rows, operator, output, rows};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LinearSpec {
    pub(crate) matrix: MatrixSpec,
    pub(crate) norm: Option<NormSpec>,
    /// Planes of the activations: 1, or 2 where precision matters.
    pub(crate) planes: usize,
    /// Of all positions only the last.
    pub(crate) last: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Linear {
    spec: LinearSpec,
    parts: Option<Parts>,
}

#[derive(Debug, Clone)]
struct Parts {
    matrix: Matrix,
    norm: Option<Norm>,
    machine: Arc<Machine>,
}

impl LinearSpec {
    pub(super) fn width(&self) -> usize {
        self.matrix.rows
    }

    pub(super) fn last(&self) -> bool {
        self.last
    }
}

impl Linear {
    pub(crate) fn new(spec: LinearSpec) -> Linear {
        Linear { spec, parts: None }
    }

    pub(crate) fn spec(&self) -> LinearSpec {
        self.spec
    }

    pub(crate) fn bind(&mut self, matrix: Matrix, norm: Option<Norm>, machine: Arc<Machine>) {
        self.parts = Some(Parts {
            matrix,
            norm,
            machine,
        });
    }
}

operator!(Linear, "Linear");

impl EvalOp for Linear {
    not_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let Parts {
            matrix,
            norm,
            machine,
        } = bound(self.parts.as_ref())?;
        let (columns, width) = (matrix.columns(), matrix.rows());
        let mut x = float_rows(&inputs[0], columns)?;
        if self.spec.last {
            x = &x[x.len() - columns..];
        }
        let count = x.len() / columns;
        let residual = match inputs.get(1) {
            None => None,
            Some(input) => Some(float_rows(input, width)?),
        };
        if residual.is_some_and(|r| r.len() != count * width) {
            bail!("the residual has another number of rows");
        }
        let quantised = rows::quantise(machine, x, columns, norm.as_ref(), self.spec.planes);
        let tile = (count, rows::strip(machine, width, count));
        output(count, width, |out| {
            machine.pool.tiles(out, width, tile, &|mut tile| {
                rows::pieces(&mut tile, &quantised, |tile, t, columns, [products, _]| {
                    let (rows, cut) = (t.clone(), columns.clone());
                    let products = rows::multiply(machine, matrix, &quantised, rows, cut, products);
                    for (t, products) in t.zip(products.chunks_exact(columns.len())) {
                        let out = tile.part(t, columns.clone());
                        let Some(residual) = residual else {
                            out.copy_from_slice(products);
                            continue;
                        };
                        let residual = &residual[t * width + columns.start..];
                        for ((out, x), r) in out.iter_mut().zip(products).zip(residual) {
                            *out = *x + r;
                        }
                    }
                });
            });
            TractResult::Ok(())
        })
    }
}
