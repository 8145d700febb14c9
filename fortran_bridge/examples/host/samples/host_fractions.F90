!> Writes each scheme's answer per sample to netCDF, so that other programs can compare it with theirs.
module host_fractions
  use aerosol_activation_constants, only: r8, num_modes
  use host_scheme, only: scheme_t
  use netcdf
  implicit none
  private
  public :: write_fractions

contains

  !> Of each scheme, say arg: fn_arg, fm_arg, fluxn_arg, fluxm_arg (nsamples, nmodes), flux_fullact_arg, nact_arg
  !! (nsamples); samples in the order in which they were read.
  subroutine write_fractions(path, schemes, errmsg)
    character(len=*), intent(in) :: path
    type(scheme_t), intent(in) :: schemes(:)
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: ncid, samples_dim, modes_dim, status, s

    status = nf90_create(path, ior(nf90_clobber, nf90_netcdf4), ncid)
    if (status /= nf90_noerr) then
      errmsg = "fractions file '"//path//"' cannot be created: "//trim(nf90_strerror(status))
      return
    end if
    status = nf90_def_dim(ncid, 'nsamples', size(schemes(1)%found%nact), samples_dim)
    if (status == nf90_noerr) status = nf90_def_dim(ncid, 'nmodes', num_modes, modes_dim)
    do s = 1, size(schemes)
      associate (found => schemes(s)%found, name => schemes(s)%name)
        call put_per_mode('fn_'//name, '1', found%fn)
        call put_per_mode('fm_'//name, '1', found%fm)
        call put_per_mode('fluxn_'//name, 'm s-1', found%fluxn)
        call put_per_mode('fluxm_'//name, 'm s-1', found%fluxm)
        call put('flux_fullact_'//name, 'm s-1', found%flux_fullact)
        call put('nact_'//name, 'm-3', found%nact)
      end associate
    end do
    if (status == nf90_noerr) status = nf90_close(ncid)
    if (status /= nf90_noerr) errmsg = "fractions file '"//path//"' cannot be written: "//trim(nf90_strerror(status))

  contains

    subroutine put_per_mode(variable, units, values)
      character(len=*), intent(in) :: variable, units
      real(r8), intent(in) :: values(:,:)
      integer :: varid

      if (status == nf90_noerr) status = nf90_def_var(ncid, variable, nf90_double, [modes_dim, samples_dim], varid)
      if (status == nf90_noerr) status = nf90_put_att(ncid, varid, 'units', units)
      if (status == nf90_noerr) status = nf90_put_var(ncid, varid, values)
    end subroutine put_per_mode

    subroutine put(variable, units, values)
      character(len=*), intent(in) :: variable, units
      real(r8), intent(in) :: values(:)
      integer :: varid

      if (status == nf90_noerr) status = nf90_def_var(ncid, variable, nf90_double, [samples_dim], varid)
      if (status == nf90_noerr) status = nf90_put_att(ncid, varid, 'units', units)
      if (status == nf90_noerr) status = nf90_put_var(ncid, varid, values)
    end subroutine put
  end subroutine write_fractions
end module host_fractions
