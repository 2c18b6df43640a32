//! Writing through what only reads.

/// Implements `hyper::rt::Write` for a wrapper that leaves what is written to its field `$io`. Its method `$wrote` is told
/// what came of each write, and its method `$shutdown` ends the connection in place of the field's own.
macro_rules! write_through {
    (
        impl[$($generics:tt)*] for $wrapper:ty,
        to $io:ident $(, telling $wrote:ident)? $(, ending by $shutdown:ident)?
    ) => {
        impl<$($generics)*> ::hyper::rt::Write for $wrapper {
            fn poll_write(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                buf: &[u8],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                let this = self.get_mut();
                let polled = ::std::pin::Pin::new(&mut this.$io).poll_write(cx, buf);
                $(this.$wrote(&polled);)?
                polled
            }

            fn poll_flush(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                ::std::pin::Pin::new(&mut self.get_mut().$io).poll_flush(cx)
            }

            fn poll_shutdown(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                let this = self.get_mut();
                $crate::proxy::strict::write_through!(@shutdown this cx $io $($shutdown)?)
            }

            fn is_write_vectored(&self) -> bool {
                self.$io.is_write_vectored()
            }

            fn poll_write_vectored(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                bufs: &[::std::io::IoSlice<'_>],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                let this = self.get_mut();
                let polled = ::std::pin::Pin::new(&mut this.$io).poll_write_vectored(cx, bufs);
                $(this.$wrote(&polled);)?
                polled
            }
        }
    };
    (@shutdown $this:ident $cx:ident $io:ident) => {
        ::std::pin::Pin::new(&mut $this.$io).poll_shutdown($cx)
    };
    (@shutdown $this:ident $cx:ident $io:ident $shutdown:ident) => {
        $this.$shutdown($cx)
    };
}

pub(in crate::proxy) use write_through;
