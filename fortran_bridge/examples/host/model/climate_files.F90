!> What the host does to files besides netCDF: reads a model's bytes, puts a finished file in its place, SHA-256.
module climate_files
  use, intrinsic :: iso_c_binding, only: c_char, c_int, c_null_char
  use, intrinsic :: iso_fortran_env, only: int8, int32, int64
  implicit none
  private
  public :: read_bytes, put_in_place, sha256

  interface
    integer(c_int) function c_rename(from, to) bind(C, name='rename')
      import :: c_char, c_int
      character(kind=c_char), intent(in) :: from(*), to(*)
    end function c_rename
  end interface

  integer(int64), parameter :: mask = int(z'FFFFFFFF', int64)
  !> FIPS 180-4, 4.2.2: from the cube roots of the first 64 primes.
  integer(int64), parameter :: k(64) = [ &
    int(z'428A2F98', int64), int(z'71374491', int64), int(z'B5C0FBCF', int64), int(z'E9B5DBA5', int64), &
    int(z'3956C25B', int64), int(z'59F111F1', int64), int(z'923F82A4', int64), int(z'AB1C5ED5', int64), &
    int(z'D807AA98', int64), int(z'12835B01', int64), int(z'243185BE', int64), int(z'550C7DC3', int64), &
    int(z'72BE5D74', int64), int(z'80DEB1FE', int64), int(z'9BDC06A7', int64), int(z'C19BF174', int64), &
    int(z'E49B69C1', int64), int(z'EFBE4786', int64), int(z'0FC19DC6', int64), int(z'240CA1CC', int64), &
    int(z'2DE92C6F', int64), int(z'4A7484AA', int64), int(z'5CB0A9DC', int64), int(z'76F988DA', int64), &
    int(z'983E5152', int64), int(z'A831C66D', int64), int(z'B00327C8', int64), int(z'BF597FC7', int64), &
    int(z'C6E00BF3', int64), int(z'D5A79147', int64), int(z'06CA6351', int64), int(z'14292967', int64), &
    int(z'27B70A85', int64), int(z'2E1B2138', int64), int(z'4D2C6DFC', int64), int(z'53380D13', int64), &
    int(z'650A7354', int64), int(z'766A0ABB', int64), int(z'81C2C92E', int64), int(z'92722C85', int64), &
    int(z'A2BFE8A1', int64), int(z'A81A664B', int64), int(z'C24B8B70', int64), int(z'C76C51A3', int64), &
    int(z'D192E819', int64), int(z'D6990624', int64), int(z'F40E3585', int64), int(z'106AA070', int64), &
    int(z'19A4C116', int64), int(z'1E376C08', int64), int(z'2748774C', int64), int(z'34B0BCB5', int64), &
    int(z'391C0CB3', int64), int(z'4ED8AA4A', int64), int(z'5B9CCA4F', int64), int(z'682E6FF3', int64), &
    int(z'748F82EE', int64), int(z'78A5636F', int64), int(z'84C87814', int64), int(z'8CC70208', int64), &
    int(z'90BEFFFA', int64), int(z'A4506CEB', int64), int(z'BEF9A3F7', int64), int(z'C67178F2', int64)]

contains

  !> All bytes of a file.
  subroutine read_bytes(path, bytes, errmsg)
    character(len=*), intent(in) :: path
    integer(int8), allocatable, intent(out) :: bytes(:)
    character(len=:), allocatable, intent(inout) :: errmsg
    integer(int64) :: length
    integer :: unit, iostat
    character(len=512) :: iomsg

    open(newunit=unit, file=path, access='stream', form='unformatted', status='old', action='read', iostat=iostat, &
      iomsg=iomsg)
    if (iostat == 0) then
      inquire(unit=unit, size=length)
      if (length < 0 .or. length > huge(1_int32)) then
        iostat = 1
        iomsg = 'is no file, or one of more than 2 GiB'
      else
        allocate(bytes(length))
        read(unit, iostat=iostat, iomsg=iomsg) bytes
      end if
      close(unit)
    end if
    if (iostat == 0) return
    errmsg = "model '"//path//"' cannot be read: "//trim(iomsg)
    if (allocated(bytes)) deallocate(bytes)
    allocate(bytes(0))
  end subroutine read_bytes

  !> Rename `temporary` to `path`: who reads `path` finds the old file or the whole new one, never a part.
  subroutine put_in_place(temporary, path, errmsg)
    character(len=*), intent(in) :: temporary, path
    character(len=:), allocatable, intent(inout) :: errmsg

    if (c_rename(temporary//c_null_char, path//c_null_char) /= 0) &
      errmsg = "'"//temporary//"' cannot be renamed to '"//path//"'"
  end subroutine put_in_place

  !> Checksum as `sha256sum` prints it (FIPS 180-4). 32-bit words lie in 64-bit integers, which never overflow.
  function sha256(bytes) result(hex)
    integer(int8), intent(in) :: bytes(:)
    character(len=64) :: hex
    integer(int64), allocatable :: padded(:)
    integer(int64) :: h(8), w(64), a(8), t1, t2
    integer :: block, t, j

    associate (n => size(bytes))
      allocate(padded(64*((n + 9 + 63)/64)))
      padded = 0
      padded(:n) = iand(int(bytes, int64), 255_int64)
      padded(n + 1) = 128
      do j = 1, 8
        padded(size(padded) + 1 - j) = iand(shiftr(8_int64*n, 8*(j - 1)), 255_int64)
      end do
    end associate
    h = [int(z'6A09E667', int64), int(z'BB67AE85', int64), int(z'3C6EF372', int64), int(z'A54FF53A', int64), &
      int(z'510E527F', int64), int(z'9B05688C', int64), int(z'1F83D9AB', int64), int(z'5BE0CD19', int64)]
    do block = 1, size(padded), 64
      do t = 1, 16
        associate (b => padded(block + 4*(t - 1):block + 4*t - 1))
          w(t) = shiftl(b(1), 24) + shiftl(b(2), 16) + shiftl(b(3), 8) + b(4)
        end associate
      end do
      do t = 17, 64
        w(t) = iand(w(t - 16) + w(t - 7) &
          + ieor(ieor(rotated(w(t - 15), 7), rotated(w(t - 15), 18)), shiftr(w(t - 15), 3)) &
          + ieor(ieor(rotated(w(t - 2), 17), rotated(w(t - 2), 19)), shiftr(w(t - 2), 10)), mask)
      end do
      a = h
      do t = 1, 64
        t1 = a(8) + ieor(ieor(rotated(a(5), 6), rotated(a(5), 11)), rotated(a(5), 25)) &
          + ieor(iand(a(5), a(6)), iand(iand(not(a(5)), mask), a(7))) + k(t) + w(t)
        t2 = ieor(ieor(rotated(a(1), 2), rotated(a(1), 13)), rotated(a(1), 22)) &
          + ieor(ieor(iand(a(1), a(2)), iand(a(1), a(3))), iand(a(2), a(3)))
        a = [iand(t1 + t2, mask), a(1), a(2), a(3), iand(a(4) + t1, mask), a(5), a(6), a(7)]
      end do
      h = iand(h + a, mask)
    end do
    write(hex, '(8z8.8)') h
    do j = 1, len(hex)
      if (hex(j:j) >= 'A' .and. hex(j:j) <= 'F') hex(j:j) = achar(iachar(hex(j:j)) + 32)
    end do
  end function sha256

  pure integer(int64) function rotated(word, by)
    integer(int64), intent(in) :: word
    integer, intent(in) :: by

    rotated = iand(ior(shiftr(word, by), shiftl(word, 32 - by)), mask)
  end function rotated
end module climate_files
